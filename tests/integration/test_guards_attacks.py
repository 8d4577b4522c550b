"""What a user with the built-in role `edit`, and more, tries against a job; one guard stops each.

Every attack is refused by the guard that it is about. With that guard's binding taken away it
passes: nothing else stops it, so the first test can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from localcluster.control_plane import ControlPlane
from securetrain.api import names
from support import samples
from support.api import Answer, Api, Object
from support.chart import AUDIENCE
from support.installed import denied_by, without
from support.scene import JOB, JOBS, PODS, POLICIES, TEAM, TOKENS, TRAININGS, Scene, staged


@pytest.fixture(scope="module")
def scene(control_plane: ControlPlane) -> Iterator[Scene]:
    with staged(Api(control_plane.kubeconfig)) as prepared:
        yield prepared


NO_KUBELET = (400, 500, 503)
Try = Callable[[Scene], Answer]


def connect(subresource: str, query: str = "", method: str = "POST") -> Try:
    return lambda scene: scene.user.call(method, f"{scene.pod_path}/{subresource}{query}")


def proxy(form: str) -> Try:
    return lambda scene: scene.user.get(f"{PODS}/{form.format(scene.pod)}/proxy/")


def patch_pod(change: Object, subresource: str = "") -> Try:
    return lambda scene: scene.user.patch(scene.pod_path + subresource, change, dry_run=True)


def new_image(scene: Scene) -> Answer:
    pod = scene.live_pod()
    pod["spec"]["containers"][0]["image"] = "evil.example.org/x"
    return scene.user.call("PUT", scene.pod_path, pod, query={"dryRun": "All"})


def debug(scene: Scene) -> Answer:
    pod = scene.live_pod()
    pod["spec"]["ephemeralContainers"] = [
        {"name": "debug", "image": "evil.example.org/x", "targetContainerName": names.CONTAINER}
    ]
    path = f"{scene.pod_path}/ephemeralcontainers"
    return scene.user.call("PUT", path, pod, query={"dryRun": "All"})


def resize(scene: Scene) -> Answer:
    pod = scene.live_pod()
    for amounts in pod["spec"]["containers"][0]["resources"].values():
        amounts["cpu"] = "2"
    return scene.user.patch(f"{scene.pod_path}/resize", {"spec": pod["spec"]}, dry_run=True)


def labels_by_status(scene: Scene) -> Answer:
    return patch_pod({"metadata": {"labels": {"a": "b"}}}, "/status")(scene)


def make(body: Object) -> Try:
    return lambda scene: scene.user.create(body, dry_run=True)


def generated(body: Object) -> Object:
    return body | {
        "metadata": {"generateName": "stj-digits-v7-train-", "namespace": TEAM},
    }


def labelled_pod(key: str) -> Object:
    pod = samples.pod("innocent", TEAM, audience=None)
    pod["metadata"]["labels"] = {key: "x"}
    return pod


def adopted(scene: Scene) -> Answer:
    uid = scene.admin.get(f"{JOBS}/{JOB}").expect()["metadata"]["uid"]
    pod = samples.pod("innocent", TEAM, audience=None)
    pod["metadata"]["labels"] = {"batch.kubernetes.io/controller-uid": uid}
    return scene.user.create(pod, dry_run=True)


def adopted_later(scene: Scene) -> Answer:
    uid = scene.admin.get(f"{JOBS}/{JOB}").expect()["metadata"]["uid"]
    change = {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": uid}}}
    return scene.user.patch(f"{PODS}/bystander", change, dry_run=True)


def patch_job(change: Object) -> Try:
    return lambda scene: scene.user.patch(f"{JOBS}/{JOB}", change, dry_run=True)


def labelled_job() -> Object:
    job = samples.foreign_job("innocent", TEAM)
    job["spec"]["template"]["metadata"] = {"labels": {names.JOB_UID_LABEL: "x"}}
    return job


def token(*audiences: str) -> Try:
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": list(audiences), "expirationSeconds": 600},
    }
    return lambda scene: scene.user.call("POST", TOKENS, body, query={"dryRun": "All"})


def token_for_the_pod(scene: Scene) -> Answer:
    pod = scene.live_pod()
    reference = {"apiVersion": "v1", "kind": "Pod"}
    reference |= {key: pod["metadata"][key] for key in ("name", "uid")}
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [AUDIENCE], "boundObjectRef": reference},
    }
    return scene.user.call("POST", TOKENS, body, query={"dryRun": "All"})


def opening(selector: Object, **rules: object) -> Try:
    spec = {"podSelector": selector, **(rules or {"egress": [{}], "policyTypes": ["Egress"]})}
    return make(samples.network_policy("opening", TEAM, **spec))


def change_policy(name: str, spec: Object) -> Try:
    change = {"spec": spec}
    return lambda scene: scene.user.patch(f"{POLICIES}/{name}", change, dry_run=True)


def remove(path: str) -> Try:
    return lambda scene: scene.user.delete(path, dryRun=["All"])


def succeeded(scene: Scene) -> Answer:
    path = f"{TRAININGS}/digits-v7/status"
    return scene.user.patch(path, {"status": {"phase": "Succeeded"}}, dry_run=True)


OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}
ATTACKS: dict[str, dict[str, Try]] = {
    "securetrain-connect": {
        "exec": connect("exec", "?command=id&stdout=true"),
        "exec by websocket": connect("exec", "?command=id&stdout=true", "GET"),
        "attach": connect("attach", "?stdout=true"),
        "port-forward": connect("portforward", "?ports=80"),
        "proxy": proxy("{}"),
        "proxy by port": proxy("{}:8080"),
        "proxy by scheme and port": proxy("https:{}:8080"),
    },
    "securetrain-pod-frozen": {
        "image": new_image,
        "deadline": patch_pod({"spec": {"activeDeadlineSeconds": 1}}),
        "new label": patch_pod({"metadata": {"labels": {"a": "b"}}}),
        "label taken away": patch_pod({"metadata": {"labels": {names.JOB_LABEL: None}}}),
        "label through status": labels_by_status,
        "no owner": patch_pod({"metadata": {"ownerReferences": None}}),
        "another owner": patch_pod({"metadata": {"ownerReferences": [OWNER]}}),
        "ephemeral container": debug,
        "resize": resize,
    },
    "securetrain-pod-create": {
        "our name": make(samples.pod("stj-digits-v7-train-xxxxx", TEAM, audience=None)),
        "our generated name": make(generated(samples.pod("", TEAM, audience=None))),
        "our audience": make(samples.pod("innocent", TEAM)),
        "our label": make(labelled_pod(names.JOB_LABEL)),
        "our UID label": make(labelled_pod(names.JOB_UID_LABEL)),
        "adoption by the Job": adopted,
        "adoption of a pod that is there": adopted_later,
    },
    "securetrain-job": {
        "our name": make(samples.foreign_job("stj-other-train", TEAM)),
        "our generated name": make(generated(samples.foreign_job("", TEAM))),
        "our audience": make(samples.foreign_job("innocent", TEAM, audience=AUDIENCE)),
        "our label on its pods": make(labelled_job()),
        "suspend": patch_job({"spec": {"suspend": True}}),
        "parallelism": patch_job({"spec": {"parallelism": 2}}),
        "label taken away": patch_job({"metadata": {"labels": {names.JOB_UID_LABEL: None}}}),
        "owner": patch_job({"metadata": {"ownerReferences": [OWNER]}}),
    },
    "securetrain-token": {
        "our audience": token(AUDIENCE),
        "our audience among others": token("other", AUDIENCE),
        "for the real pod": token_for_the_pod,
    },
    "securetrain-netpol": {
        "opens everything": opening({}),
        "opens ingress": opening({}, ingress=[{}], policyTypes=["Ingress"]),
        "opens by our label": opening({"matchLabels": {names.JOB_LABEL: "digits-v7"}}),
        "opens by purpose": opening({"matchLabels": {names.PURPOSE_LABEL: "train"}}),
        "opens by manager": opening({"matchLabels": {names.MANAGED_BY_LABEL: names.MANAGED_BY}}),
        "opens by Job": opening({"matchLabels": {"batch.kubernetes.io/job-name": JOB}}),
        "opens by old Job label": opening({"matchLabels": {"job-name": JOB}}),
        "opens by queue": opening({"matchLabels": {"kueue.x-k8s.io/queue-name": "gpu"}}),
        "opens by existence": opening(
            {"matchExpressions": [{"key": names.JOB_LABEL, "operator": "Exists"}]}
        ),
        "opens by absence": opening(
            {"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}
        ),
        "opens by difference": opening(
            {"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}]}
        ),
        "own policy becomes an opening": change_policy("bystander", {"ingress": [{}]}),
        "our policy opened": change_policy("stj-digits-v7", {"ingress": [{}]}),
        "our policy diverted": change_policy(
            "stj-digits-v7", {"podSelector": {"matchLabels": {"x": "y"}}}
        ),
        "our policy deleted": remove(f"{POLICIES}/stj-digits-v7"),
        "all policies deleted at once": remove(POLICIES),
        "a policy of our name": make(samples.network_policy("stj-other", TEAM)),
    },
    "securetrain-status": {"success": succeeded},
}  # fmt: skip
EACH = [(guard, attack) for guard, attacks in ATTACKS.items() for attack in attacks]


def test_every_guard_has_attacks() -> None:
    assert set(ATTACKS) == set(names.GUARDS)


@pytest.mark.parametrize(("guard", "attack"), EACH)
def test_the_attack_is_refused_by_its_guard(scene: Scene, guard: str, attack: str) -> None:
    answer = ATTACKS[guard][attack](scene)
    assert denied_by(answer, guard), f"{answer.status}: {answer.message}"


@pytest.mark.parametrize("guard", names.GUARDS)
def test_without_the_guard_nothing_else_stops_its_attacks(scene: Scene, guard: str) -> None:
    attacks = ATTACKS[guard]
    first = next(iter(attacks.values()))
    with without(scene.admin, scene.chart, guard, lambda: denied_by(first(scene), guard)):
        answers = {name: attack(scene) for name, attack in attacks.items()}
    for name, answer in answers.items():
        # A CONNECT that passes admission ends at the pod that no kubelet runs.
        passed = answer.ok or (guard == "securetrain-connect" and answer.status in NO_KUBELET)
        assert passed, f"{name}: {answer.status}: {answer.message}"
