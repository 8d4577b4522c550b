"""The CRD on a real API server: what it takes, fills in, refuses and shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from localcluster.control_plane import ControlPlane
from securetrain.api.conditions import Fact, conditions_for
from securetrain.api.status import JobStatus, ModelStatus, ProgressStatus
from securetrain.api.types import JobSpec, Metric
from support.api import Api, Object, collection, eventually
from support.installed import install_crd, make_namespace
from support.samples import training_job

NAMESPACE = "crd-test"
DIGEST = "sha256:" + "a" * 64
NOW = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane) -> Iterator[Api]:
    admin = Api(control_plane.kubeconfig)
    install_crd(admin)
    make_namespace(admin, NAMESPACE, enabled=False)
    yield admin
    admin.delete(f"/api/v1/namespaces/{NAMESPACE}")


def job(name: str = "digits-v7", **spec: Any) -> Object:
    return training_job(name, NAMESPACE, **spec)


def path(item: Object) -> str:
    return f"{collection(item)}/{item['metadata']['name']}"


@pytest.fixture
def stored(api: Api) -> Iterator[Object]:
    item = job("stored", suspend=True, activeDeadlineSeconds=60)
    yield api.create(item).expect()
    api.delete(path(item)).expect()


def test_server_calls_the_schema_structural_and_its_names_accepted(api: Api) -> None:
    crd = (
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/securetrainingjobs.securetrain.dev"
    )
    status = api.get(crd).expect()["status"]
    conditions = {entry["type"]: entry["status"] for entry in status["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions
    assert status["acceptedNames"]["shortNames"] == ["stj"]


def test_defaults_are_the_models(api: Api) -> None:
    minimal = job()
    stored = api.create(minimal, dry_run=True).expect()["spec"]
    assert JobSpec.model_validate(stored) == JobSpec.model_validate(minimal["spec"])
    assert JobSpec.model_validate(stored).to_wire() == stored, "the server fills in every default"


def test_a_full_spec_is_kept_as_it_is(api: Api) -> None:
    full = job(
        datasets=[{"name": "digits", "uri": "pvc://datasets/a/b", "digest": "sha256:" + "a" * 64}],
        model={"architecture": "mlp", "parameters": {"hidden": "64"}},
        training={
            "epochs": 2,
            "batchSize": 8,
            "seed": 7,
            "optimizer": {"name": "sgd", "learningRate": 1e-05},
        },
        certification={
            "gates": [{"metric": "accuracy", "min": 0.97}, {"metric": "loss", "max": 1.5}],
            "resources": {"limits": {"cpu": 2, "memory": "2Gi"}},
        },
        output={"uri": "pvc://models/x", "kek": "k", "ifExists": "Replace"},
        pod={
            "image": "registry:5000/a/b@sha256:" + "b" * 64,
            "imagePullSecrets": [{"name": "registry"}],
            "resources": {"requests": {"memory": "1Gi"}, "limits": {"nvidia.com/gpu": 1}},
            "nodeSelector": {"gpu": "true"},
            "tolerations": [
                {
                    "key": "gpu",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 5,
                }
            ],
            "priorityClassName": "batch",
            "runtimeClassName": "kata",
        },
        vaultConnectionRef={"name": "other"},
        suspend=True,
        backoffLimit=0,
        startingDeadlineSeconds=1,
        activeDeadlineSeconds=1,
        ttlSecondsAfterFinished=0,
        childTTLSecondsAfterFinished=0,
    )
    assert api.create(full, dry_run=True).expect()["spec"] == full["spec"]
    JobSpec.model_validate(full["spec"])


def changed(where: str, value: Any) -> Object:
    """A job with one field of its spec set; None takes the field away."""
    item = job()
    node: Any = item["spec"]
    *parents, last = where.split("/")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    if value is None:
        del node[last]
    else:
        node[last] = value
    return item


LONG = "x" * 600
WRONG = [
    ("datasets", None, "spec.datasets"),
    ("datasets", [], "spec.datasets"),
    ("datasets", [{"name": "a", "uri": "pvc://a/b"}] * 2, "spec.datasets"),
    ("datasets/0/name", "Digits", "spec.datasets[0].name"),
    ("datasets/0/uri", "gs://bucket/x", "spec.datasets[0].uri"),
    ("datasets/0/uri", "pvc://datasets/../secret", "spec.datasets[0].uri"),
    ("datasets/0/uri", "pvc://datasets/digits/", "spec.datasets[0].uri"),
    ("datasets/0/uri", "pvc://datasets/" + LONG, "spec.datasets[0].uri"),
    ("datasets/0/uri", "pvc://models/digits-v7", "within one another"),
    ("datasets/0/uri", "pvc://models", "within one another"),
    ("datasets/0/uri", "pvc://models/digits-v7/data", "within one another"),
    ("datasets/0/digest", "sha256:abc", "spec.datasets[0].digest"),
    ("model/architecture", None, "spec.model.architecture"),
    ("model/architecture", "transformer", "spec.model.architecture"),
    ("model/parameters", {"a": 1}, "spec.model.parameters"),
    ("training/epochs", 0, "spec.training.epochs"),
    ("training/epochs", "5", "spec.training.epochs"),
    ("training/batchSize", 1_000_000, "spec.training.batchSize"),
    ("training/seed", -1, "spec.training.seed"),
    ("training/optimizer", {"name": "lion"}, "spec.training.optimizer.name"),
    ("training/optimizer", {"learningRate": 0}, "spec.training.optimizer.learningRate"),
    ("training/optimizer", {"learningRate": 11}, "spec.training.optimizer.learningRate"),
    ("certification/gates", [{"metric": "accuracy"}], "a gate needs min or max"),
    ("certification/gates", [{"metric": "a", "min": 1, "max": 0}], "must not be above its max"),
    ("certification/gates", [{"metric": "a", "min": 1}] * 2, "spec.certification.gates[1]"),
    ("certification/gates", [{"metric": "A-b", "min": 1}], "spec.certification.gates[0].metric"),
    ("output/uri", None, "spec.output.uri"),
    ("output/uri", "pvc://models", "output.uri must name a folder"),
    ("output", {"uri": "s3://models", "storageRef": {"name": "m"}, "kek": "k"}, "name a folder"),
    ("output/uri", "s3://models/m", "an s3:// uri needs a storageRef"),
    ("output/storageRef", {"name": "minio"}, "no other uri may have one"),
    ("datasets/0/storageRef", {"name": "minio"}, "no other uri may have one"),
    ("datasets/0/uri", "s3://data/x", "an s3:// uri needs a storageRef"),
    ("output/kek", "../root", "spec.output.kek"),
    ("output/kek", "", "spec.output.kek"),
    ("output/ifExists", "Overwrite", "spec.output.ifExists"),
    ("pod/image", "registry/trainer:latest", "spec.pod.image"),
    ("pod/resources", {"limits": {"memory": "x" * 40}}, "spec.pod.resources.limits.memory"),
    ("pod/nodeSelector", {str(n): "x" for n in range(17)}, "spec.pod.nodeSelector"),
    ("pod/tolerations", [{"effect": "Never"}], "spec.pod.tolerations[0].effect"),
    ("vaultConnectionRef/name", "https://evil", "spec.vaultConnectionRef.name"),
    ("suspend", "yes", "spec.suspend"),
    ("backoffLimit", 101, "spec.backoffLimit"),
    ("activeDeadlineSeconds", 0, "spec.activeDeadlineSeconds"),
    ("ttlSecondsAfterFinished", -1, "spec.ttlSecondsAfterFinished"),
]


@pytest.mark.parametrize(("where", "value", "said"), WRONG)
def test_a_wrong_job_is_refused_by_name(api: Api, where: str, value: Any, said: str) -> None:
    answer = api.create(changed(where, value), dry_run=True)
    assert answer.status == 422
    assert said in answer.message


@pytest.mark.parametrize("name", ["7digits", "digits.v7", "d" * 51])
def test_a_name_must_fit_into_the_names_of_children(api: Api, name: str) -> None:
    item = job(name)
    item["spec"]["output"]["uri"] = "pvc://models/x"
    answer = api.create(item, dry_run=True)
    assert answer.status == 422
    assert "metadata.name: a lower-case DNS label that starts with a letter" in answer.message


def test_the_longest_name_is_taken(api: Api) -> None:
    assert api.create(job("d" * 50), dry_run=True).ok


def test_a_claim_that_begins_like_another_is_another_place(api: Api) -> None:
    assert api.create(changed("datasets/0/uri", "pvc://models/digits-v70"), dry_run=True).ok
    assert api.create(changed("datasets/0/uri", "pvc://models/other"), dry_run=True).ok


def test_an_unknown_field_is_refused_by_a_strict_client(api: Api) -> None:
    item = changed("model/entrypoint", "my:model")
    answer = api.call(
        "POST", collection(item), item, query={"dryRun": "All", "fieldValidation": "Strict"}
    )
    assert answer.status == 400
    assert "spec.model.entrypoint" in answer.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("datasets", [{"name": "digits", "uri": "pvc://datasets/other"}]),
        ("datasets", [{"name": "digits", "uri": "pvc://datasets/digits", "digest": DIGEST}]),
        ("model", {"architecture": "mlp"}),
        ("training", {"epochs": 6}),
        ("certification", {"gates": [{"metric": "accuracy", "min": 0.1}]}),
        ("output", {"kek": "other"}),
        ("pod", {"image": "r/x@sha256:" + "a" * 64}),
        ("vaultConnectionRef", {"name": "other"}),
        ("backoffLimit", 4),
    ],
)
def test_a_run_is_immutable(api: Api, stored: Object, field: str, value: Any) -> None:
    answer = api.patch(path(stored), {"spec": {field: value}}, dry_run=True)
    assert answer.status == 422
    assert "give the changed run a new metadata.name" in answer.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suspend", False),
        ("startingDeadlineSeconds", 5),
        ("activeDeadlineSeconds", 99),
        ("activeDeadlineSeconds", None),
        ("ttlSecondsAfterFinished", 5),
        ("childTTLSecondsAfterFinished", 5),
    ],
)
def test_suspend_and_seconds_may_change(api: Api, stored: Object, field: str, value: Any) -> None:
    assert api.patch(path(stored), {"spec": {field: value}}, dry_run=True).ok


def test_applying_the_same_manifest_again_changes_nothing(api: Api, stored: Object) -> None:
    item = job("stored", suspend=True, activeDeadlineSeconds=60)
    again = api.patch(path(stored), {"spec": item["spec"]}).expect()
    assert again["metadata"]["generation"] == stored["metadata"]["generation"]


def a_status() -> Object:
    facts = {"Accepted": Fact(True, "SpecAccepted"), "Certified": Fact(False, "NotYet")}
    return JobStatus(
        observed_generation=1,
        phase="Training",
        start_time=NOW,
        progress=ProgressStatus(summary="epoch 3/5", progress_percentage=60, last_updated_time=NOW),
        model=ModelStatus(uri="pvc://models/x", metrics=(Metric(name="accuracy", value="0.9752"),)),
        conditions=conditions_for("Training", "Training", "Epoch 3.", facts, (), 1, NOW),  # type: ignore[arg-type]
    ).to_wire()


def test_status_of_the_models_is_stored_whole(api: Api, stored: Object) -> None:
    answer = api.patch(f"{path(stored)}/status", {"status": a_status()}).expect()
    assert answer["status"] == a_status()
    assert answer["metadata"]["generation"] == 1, "a status is no new generation"


def test_a_status_of_unknown_shape_is_refused(api: Api, stored: Object) -> None:
    answer = api.patch(f"{path(stored)}/status", {"status": {"phase": "Done"}})
    assert answer.status == 422
    assert "status.phase" in answer.message


def test_status_is_not_part_of_what_a_user_creates(api: Api) -> None:
    item = job() | {"status": {"phase": "Succeeded"}}
    assert "status" not in api.create(item, dry_run=True).expect()


def test_columns_show_progress_and_wide_shows_the_reason(
    api: Api, stored: Object, control_plane: ControlPlane
) -> None:
    api.patch(f"{path(stored)}/status", {"status": a_status()}).expect()
    shown = control_plane.kubectl("get", "stj", "-n", NAMESPACE, "-o", "wide")
    header, row = (line.split() for line in shown.splitlines())
    assert header == ["NAME", "PHASE", "PROGRESS", "CERTIFIED", "ACCURACY", "AGE", "REASON"]
    assert row[:6] == ["stored", "Training", "epoch", "3/5", "False", "0.9752"]
    assert row[-1] == "Training"


def test_kubectl_explains_fields(control_plane: ControlPlane, api: Api) -> None:
    kubectl = control_plane.kubectl
    fresh = ("api-resources", "--api-group=securetrain.dev", "--cached=false")
    eventually(lambda: "stj" in kubectl(*fresh), "discovery lists the CRD after it is served")
    said, field = "checked before any key is granted", ("explain", "stj.spec.output.ifExists")
    eventually(lambda: said in kubectl.run(*field).stdout, "the schema is published too")
