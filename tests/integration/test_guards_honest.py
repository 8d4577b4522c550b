"""What must still work under the guards: operator, controllers, and everyone's own work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from localcluster.control_plane import ControlPlane
from securetrain.api import names
from support import samples
from support.api import Answer, Api, Object, collection, eventually
from support.chart import AUDIENCE, OPERATOR_NAMESPACE, VALUES, of_kind, render
from support.installed import ADMISSION, GUARD_KINDS, allow, bind, denied_by, make_namespace
from support.scene import (
    JOB,
    JOBS,
    OPEN,
    PODS,
    POLICIES,
    TEAM,
    TOKENS,
    TRAININGS,
    USER,
    Scene,
    await_removal,
    launch,
    pod_of,
    staged,
)

KUEUE = "system:serviceaccount:kueue-system:kueue-controller-manager"
ENDING = "ending"


@pytest.fixture(scope="module")
def scene(control_plane: ControlPlane) -> Iterator[Scene]:
    with staged(Api(control_plane.kubeconfig)) as prepared:
        allow(
            prepared.admin,
            KUEUE,
            TEAM,
            "queue",
            [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "patch"]}],
        )
        end_a_namespace(prepared)
        yield prepared


def end_a_namespace(scene: Scene) -> None:
    """Delete one in which a job runs; that takes a while."""
    make_namespace(scene.admin, ENDING)
    launch(scene.operator, ENDING)
    pod_of(scene.admin, JOB, ENDING)
    scene.admin.delete(f"/api/v1/namespaces/{ENDING}").expect()


def test_the_job_controller_makes_the_operators_pod_its_own(scene: Scene) -> None:
    pod = scene.live_pod()
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Job", JOB, True)
    assert pod["metadata"]["generation"] == 1
    assert pod["metadata"]["labels"].items() >= samples.child()["metadata"]["labels"].items()


def test_the_guards_compile_without_warnings(scene: Scene) -> None:
    policies = f"{ADMISSION}/validatingadmissionpolicies"

    def checked() -> list[Object]:
        items: list[Object] = scene.admin.get(policies).expect()["items"]
        return [item for item in items if "typeChecking" in item.get("status", {})]

    wanted = len(of_kind(scene.chart, "ValidatingAdmissionPolicy"))
    eventually(lambda: len(checked()) >= wanted, "all policies are type-checked")
    warnings = {
        item["metadata"]["name"]: item["status"]["typeChecking"].get("expressionWarnings", [])
        for item in checked()
    }
    assert not {name: found for name, found in warnings.items() if found}


def test_users_may_look_at_and_delete_their_pods(scene: Scene) -> None:
    assert scene.user.get(scene.pod_path).ok
    assert scene.user.delete(scene.pod_path, dryRun=["All"]).ok


def test_an_annotation_on_a_pod_is_nobodys_harm(scene: Scene) -> None:
    change = {"metadata": {"annotations": {"example.org/a": "b"}}}
    assert scene.user.patch(scene.pod_path, change, dry_run=True).ok


def test_users_connect_to_their_own_pods(scene: Scene) -> None:
    answer = scene.user.call("POST", f"{PODS}/bystander/exec?command=id&stdout=true")
    assert answer.status != 403
    assert "does not have a host assigned" in answer.message


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (f"{PODS}/bystander", {"metadata": {"labels": {"app": "x"}}}),
        (f"{PODS}/bystander", {"spec": {"activeDeadlineSeconds": 10}}),
        (f"{JOBS}/bystander", {"spec": {"suspend": True}}),
        (f"{JOBS}/bystander", {"metadata": {"labels": {"app": "x"}}}),
        (f"{JOBS}/{JOB}", {"metadata": {"annotations": {"example.org/a": "b"}}}),
        (f"{TRAININGS}/digits-v7", {"spec": {"suspend": True}}),
        (f"{TRAININGS}/digits-v7", {"metadata": {"labels": {"app": "x"}}}),
        (f"{POLICIES}/bystander", {"spec": {"podSelector": {"matchLabels": {"app": "x"}}}}),
    ],
)
def test_users_change_what_is_theirs(scene: Scene, path: str, change: Object) -> None:
    scene.user.patch(path, change, dry_run=True).expect()


@pytest.mark.parametrize(
    "selector",
    [
        {"matchLabels": {"app.kubernetes.io/name": "web"}},
        {"matchLabels": {"app": "web", names.MANAGED_BY_LABEL: "Helm"}},
        {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]},
        {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
        {"matchExpressions": [{"key": names.JOB_LABEL, "operator": "DoesNotExist"}]},
    ],
)
def test_an_opening_that_misses_our_pods_is_fine(scene: Scene, selector: Object) -> None:
    policy = samples.network_policy("web", TEAM, podSelector=selector, ingress=[{}])
    scene.user.create(policy, dry_run=True).expect()


def test_a_policy_that_only_closes_may_select_everything(scene: Scene) -> None:
    scene.user.create(samples.network_policy("default-deny", TEAM), dry_run=True).expect()


def test_kueue_suspends_labels_and_places_jobs_but_makes_none(scene: Scene) -> None:
    kueue = scene.admin.as_user(KUEUE)
    nothing: Object = {"metadata": {}}
    eventually(lambda: kueue.patch(f"{JOBS}/{JOB}", nothing, dry_run=True).ok, "the role counts")
    for change in (
        {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gpu"}}},
        {"spec": {"suspend": True}},
    ):
        kueue.patch(f"{JOBS}/{JOB}", change, dry_run=True).expect()
    answer = kueue.create(samples.child("other", TEAM), dry_run=True)
    assert denied_by(answer, "securetrain-job")


def test_a_finalizer_may_go_when_nothing_else_changes(scene: Scene) -> None:
    change = {"metadata": {"finalizers": ["example.org/x"]}}
    scene.user.patch(f"{JOBS}/{JOB}", change, dry_run=True).expect()


def token_request(*audiences: str) -> Object:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": list(audiences), "expirationSeconds": 600},
    }


@pytest.mark.parametrize("audiences", [(), ("vault",), (AUDIENCE + "x",), (AUDIENCE[:-1],)])
def test_other_audiences_stay_free(scene: Scene, audiences: tuple[str, ...]) -> None:
    scene.user.call("POST", TOKENS, token_request(*audiences)).expect()


def test_kubelets_get_our_audience(scene: Scene) -> None:
    allow(
        scene.admin,
        "kubelet",
        TEAM,
        "tokens",
        [{"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}],
    )
    kubelet = scene.admin.as_user("kubelet", "system:nodes")
    request = token_request(AUDIENCE)
    eventually(lambda: kubelet.call("POST", TOKENS, request).ok, "kubelet gets a token")
    same_right_other_group = scene.admin.as_user("kubelet", "system:node")
    answer = same_right_other_group.call("POST", TOKENS, token_request(AUDIENCE))
    assert denied_by(answer, "securetrain-token")


def test_our_audience_is_guarded_in_every_namespace(scene: Scene) -> None:
    path = f"/api/v1/namespaces/{OPEN}/serviceaccounts/default/token"
    answer = scene.user.call("POST", path, token_request(AUDIENCE))
    assert denied_by(answer, "securetrain-token")


@pytest.mark.parametrize(
    "body",
    [
        samples.foreign_job("stj-x", OPEN),
        samples.network_policy("opening", OPEN, ingress=[{}]),
    ],
    ids=["Job", "NetworkPolicy"],
)
def test_namespaces_that_are_not_enabled_are_left_alone(scene: Scene, body: Object) -> None:
    scene.user.create(body, dry_run=True).expect()


def test_the_operator_writes_status_and_reads_what_it_needs(scene: Scene) -> None:
    change = {"status": {"phase": "Pending", "observedGeneration": 1}}
    scene.operator.patch(f"{TRAININGS}/digits-v7/status", change).expect()
    for path in (
        TRAININGS,
        JOBS,
        PODS,
        POLICIES,
        f"/api/v1/namespaces/{TEAM}",
        "/api/v1/namespaces",
        "/apis/securetrain.dev/v1alpha1/securetrainingjobs",
        f"{ADMISSION}/validatingadmissionpolicies",
        f"{ADMISSION}/validatingadmissionpolicybindings",
        f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps",
    ):
        scene.operator.get(path).expect()


def config_map(name: str, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"a": "b"},
    }


def test_the_operator_keeps_records_and_shows_the_audit(scene: Scene) -> None:
    operator = scene.operator
    operator.create(config_map("digits-v7-audit", TEAM), dry_run=True).expect()
    operator.create(config_map("launch-x", OPERATOR_NAMESPACE), dry_run=True).expect()


@pytest.mark.parametrize(
    "body",
    [
        config_map("applications-config", TEAM),
        samples.foreign_job("payroll", TEAM),
        samples.network_policy("web", TEAM),
        samples.service_account(TEAM) | {"metadata": {"name": "robot", "namespace": TEAM}},
    ],
    ids=["ConfigMap", "Job", "NetworkPolicy", "ServiceAccount"],
)
def test_the_operator_writes_nothing_that_is_not_its_own(scene: Scene, body: Object) -> None:
    answer = scene.operator.create(body, dry_run=True)
    assert denied_by(answer, "securetrain-operator")


def test_the_operator_deletes_only_its_own(scene: Scene) -> None:
    answer = scene.operator.delete(f"{JOBS}/bystander", dryRun=["All"])
    assert denied_by(answer, "securetrain-operator")
    assert scene.operator.delete(f"{JOBS}/{JOB}", dryRun=["All"]).ok


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/api/v1/namespaces/{TEAM}/secrets"),
        ("GET", f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets/x"),
        ("POST", f"/api/v1/namespaces/{TEAM}/pods"),
        ("POST", f"{PODS}/bystander/exec?command=id"),
        ("GET", f"{PODS}/bystander/log"),
        ("POST", TOKENS),
        ("PATCH", f"{TRAININGS}/digits-v7"),
        ("PATCH", f"{JOBS}/{JOB}"),
        ("GET", f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/x/proxy"),
        ("DELETE", f"{ADMISSION}/validatingadmissionpolicies/securetrain-job"),
    ],
)
def test_rbac_refuses_the_operator_what_it_does_not_need(
    scene: Scene, method: str, path: str
) -> None:
    body: Object | None = {} if method in ("POST", "PATCH") else None
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    answer = scene.operator.call(method, path, body, content_type=kind)
    assert answer.status == 403
    assert "cannot" in answer.message, "refused by RBAC, not by a guard"


def test_a_namespace_in_which_a_job_runs_can_be_deleted(scene: Scene) -> None:
    await_removal(scene.admin, ENDING)


def test_the_operator_deletes_a_job_with_its_pod(scene: Scene) -> None:
    namespace = f"{ENDING}-job"
    make_namespace(scene.admin, namespace)
    launch(scene.operator, namespace)
    pod = f"/api/v1/namespaces/{namespace}/pods/{pod_of(scene.admin, JOB, namespace)}"
    job = f"/apis/batch/v1/namespaces/{namespace}/jobs/{JOB}"
    scene.operator.delete(job, propagationPolicy="Background").expect()
    eventually(lambda: scene.admin.get(pod).status == 404, "the Job's pod is gone")
    scene.admin.delete(f"/api/v1/namespaces/{namespace}").expect()


@pytest.mark.parametrize("policy", ["Foreground", "Orphan"])
def test_a_user_may_delete_a_job_in_every_way(scene: Scene, policy: str) -> None:
    namespace = f"{ENDING}-{policy.lower()}"
    make_namespace(scene.admin, namespace)
    bind(scene.admin, USER, "edit", namespace)
    launch(scene.operator, namespace)
    pod = f"/api/v1/namespaces/{namespace}/pods/{pod_of(scene.admin, JOB, namespace)}"
    job = f"/apis/batch/v1/namespaces/{namespace}/jobs/{JOB}"
    eventually(lambda: scene.user.get(job).ok, "the user's role counts")
    scene.user.delete(job, propagationPolicy=policy).expect()
    eventually(lambda: scene.admin.get(job).status == 404, "the Job is gone")
    wanted = 404 if policy == "Foreground" else 200
    eventually(lambda: scene.admin.get(pod).status == wanted, f"the pod is told {wanted}")
    scene.admin.delete(f"/api/v1/namespaces/{namespace}").expect()


@pytest.fixture
def output_key_guard(scene: Scene) -> Iterator[str]:
    """Guard (h), which is optional."""
    guards = of_kind(render(VALUES | {"guards": {"outputKeyUse": True}}), *GUARD_KINDS)
    ours = [item for item in guards if item["metadata"]["name"] == "securetrain-output-key"]
    for item in ours:
        scene.admin.apply(item).expect()
    yield "securetrain-output-key"
    for item in ours:
        scene.admin.delete(f"{collection(item)}/securetrain-output-key").expect()


def test_an_output_key_needs_the_verb_use(scene: Scene, output_key_guard: str) -> None:
    def create() -> Answer:
        return scene.user.create(samples.training_job("other", TEAM), dry_run=True)

    eventually(lambda: denied_by(create(), output_key_guard), "guard (h) denies")
    assert "lacks the verb use on outputkeys.securetrain.dev/team-a-models" in create().message
    rule = {
        "apiGroups": ["securetrain.dev"],
        "resources": ["outputkeys"],
        "resourceNames": ["team-a-models"],
        "verbs": ["use"],
    }
    allow(scene.admin, USER, TEAM, "output-key", [rule])
    eventually(lambda: create().ok, "whoever may use the key makes the job")
