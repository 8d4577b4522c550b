"""Jobs on object storage: what their pods are told and given, and what they wait for."""

from __future__ import annotations

from typing import Any

import pytest

from securetrain.api.gateway import RunSpec
from securetrain.api.names import RUN_SPEC_ENV, Purpose
from securetrain_operator.build.fidelity import differences
from securetrain_operator.build.job import Launch, child_job
from securetrain_operator.build.network import network_policy
from securetrain_operator.core import diagnose, times, transitions
from securetrain_operator.core.connections import connection_lack, secret_names, storages_of
from securetrain_operator.core.decide import decide, refusal
from securetrain_operator.core.observed import Child, Observed, claims, parse_job
from securetrain_operator.core.record import ChildRecord, LaunchRecord
from securetrain_operator.settings import Settings
from support.world import NAMESPACE, TIME, job_object, settings, waiting

MINIO = {
    "name": "minio",
    "endpoint": "https://192.0.2.9:9000",
    "region": "eu-central-1",
    "ca": "the CA of the storage",
    "credentialsSecret": "minio-login",
    "allowedNamespaces": ["team-a"],
}
ARCHIVE = {
    "name": "archive",
    "endpoint": "https://archive.example.org",
    "credentialsSecret": "archive-login",
    "allowedNamespaces": ["*"],
    "egressCidrs": ["198.51.100.0/24"],
}
DATASET = {"name": "digits", "uri": "s3://data/digits", "storageRef": {"name": "minio"}}
OUTPUT = {"uri": "s3://models/digits-v7", "storageRef": {"name": "minio"}, "kek": "team-a-models"}
BOTH = {"datasets": [DATASET], "output": OUTPUT}


def known(*connections: dict[str, Any]) -> Settings:
    return settings(storageConnections=list(connections or (MINIO, ARCHIVE)))


def job(**spec: Any) -> Any:
    item = job_object(**spec)
    item["metadata"] |= {"namespace": NAMESPACE, "creationTimestamp": TIME, "generation": 1}
    parsed = parse_job(item)
    assert parsed.spec is not None, parsed.fault
    return parsed


def launch(purpose: Purpose = Purpose.TRAIN, **spec: Any) -> Launch:
    made, options = job(**(spec or BOTH)), known()
    found = storages_of(made.spec, options, NAMESPACE)
    assert found is not None
    return Launch(
        purpose=purpose,
        job=made.ref,
        labels={},
        spec=made.spec,
        record=transitions.accepted(made.ref, made.spec_sha256, TIME),
        settings=options,
        connection=options.vault_connections[0],
        gateway_ca="ca",
        storages=found,
    )


def pod_of(made: Launch) -> dict[str, Any]:
    pod: dict[str, Any] = child_job(made)["spec"]["template"]["spec"]
    return pod


def run_of(made: Launch) -> RunSpec:
    (env,) = pod_of(made)["containers"][0]["env"]
    assert env["name"] == RUN_SPEC_ENV
    return RunSpec.model_validate_json(env["value"])


def volumes(made: Launch) -> dict[str, Any]:
    return {volume["name"]: volume for volume in pod_of(made)["volumes"]}


def mounts(made: Launch) -> dict[str, Any]:
    return {mount["mountPath"]: mount for mount in pod_of(made)["containers"][0]["volumeMounts"]}


@pytest.mark.parametrize("purpose", Purpose)
def test_a_pod_is_told_the_server_and_given_the_login_by_kubelet(purpose: Purpose) -> None:
    made = launch(purpose)
    run = run_of(made)
    assert (run.dataset_path, run.output_path) == ("s3://data/digits", "s3://models/digits-v7")
    storage = run.dataset_storage
    assert storage is not None
    assert storage == run.output_storage
    assert (storage.endpoint, storage.region, storage.ca) == (
        MINIO["endpoint"], MINIO["region"], MINIO["ca"],
    )  # fmt: skip
    assert set(volumes(made)) == {"token", "tmp", "storage-0"}
    secret = volumes(made)["storage-0"]["projected"]
    assert secret["defaultMode"] == 0o400
    required, token = (source["secret"] for source in secret["sources"])
    assert required["name"] == token["name"] == "minio-login"
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert {item["key"] for item in required["items"]} == keys
    assert "optional" not in required
    assert ([item["path"] for item in token["items"]], token["optional"]) == (
        ["AWS_SESSION_TOKEN"], True,
    )  # fmt: skip
    mount = mounts(made)[storage.credentials]
    assert (mount["name"], mount["readOnly"]) == ("storage-0", True)
    assert set(mounts(made)) == {storage.credentials, "/tmp", "/var/run/secrets/securetrain"}


def test_a_login_of_its_own_for_each_connection() -> None:
    made = launch(datasets=[DATASET], output=OUTPUT | {"storageRef": {"name": "archive"}})
    run = run_of(made)
    assert run.dataset_storage is not None
    assert run.output_storage is not None
    folders = [run.dataset_storage.credentials, run.output_storage.credentials]
    by_folder = [volumes(made)[mounts(made)[folder]["name"]] for folder in folders]
    names = [volume["projected"]["sources"][0]["secret"]["name"] for volume in by_folder]
    assert names == ["minio-login", "archive-login"]


def test_a_claim_and_a_bucket_go_together() -> None:
    made = launch(datasets=[DATASET])
    assert run_of(made).output_path == "/output/digits-v7"
    assert run_of(made).output_storage is None
    assert {"output", "storage-0"} < set(volumes(made))
    assert "/dataset" not in mounts(made)
    other = launch(output=OUTPUT)
    assert run_of(other).dataset_path == "/dataset/digits"
    assert set(volumes(other)) == {"dataset", "token", "tmp", "storage-0"}
    assert volumes(other)["dataset"]["persistentVolumeClaim"]["readOnly"] is True


def test_jobs_on_claims_are_built_as_before() -> None:
    made = launch(backoffLimit=3)
    assert set(volumes(made)) == {"dataset", "output", "token", "tmp"}
    assert "Storage" not in pod_of(made)["containers"][0]["env"][0]["value"]


@pytest.mark.parametrize("harm", ["another Secret", "another key", "a mode", "writable"])
def test_a_login_that_anybody_else_changes_is_a_difference(harm: str) -> None:
    asked, stored = (child_job(launch())["spec"]["template"] for _ in range(2))
    volume = next(v for v in stored["spec"]["volumes"] if v["name"] == "storage-0")["projected"]
    if harm == "another Secret":
        volume["sources"][0]["secret"]["name"] = "another"
    elif harm == "another key":
        volume["sources"][0]["secret"]["items"][0]["key"] = "another"
    elif harm == "a mode":
        volume["defaultMode"] = 0o444
    else:
        stored["spec"]["containers"][0]["volumeMounts"][-1].pop("readOnly")
    assert list(differences(asked, stored))


def ways(made: Launch) -> list[tuple[str, int]]:
    policy = network_policy(made.job, made.settings, made.connection, made.storages)
    return [
        (block["ipBlock"]["cidr"], port["port"])
        for rule in policy["spec"]["egress"]
        for block in rule["to"]
        for port in rule["ports"]
        if "ipBlock" in block
    ]


def test_the_way_to_the_storage_is_open_and_only_to_that_of_the_job() -> None:
    vault = ("10.0.0.5/32", 8200)
    assert ways(launch()) == [vault, ("192.0.2.9/32", 9000)]
    archived = launch(output=OUTPUT | {"storageRef": {"name": "archive"}})
    assert ways(archived) == [vault, ("198.51.100.0/24", 443)]
    assert ways(launch(backoffLimit=3)) == [vault]


def test_buckets_are_no_claims() -> None:
    assert claims(job(**BOTH).spec) == ()
    assert claims(job(datasets=[DATASET]).spec) == ("models",)
    closed = known().model_copy(update={"namespaces": {}})
    assert refusal(job(**BOTH).spec, closed, NAMESPACE) is None
    forbidden = refusal(job(datasets=[DATASET]).spec, closed, NAMESPACE)
    assert forbidden is not None
    assert forbidden.message.startswith("spec.output.uri: claim models")


@pytest.mark.parametrize(
    ("connections", "reason", "said"),
    [
        ((ARCHIVE,), "StorageConnectionUnknown", "no storage connection is named minio"),
        (
            (ARCHIVE,),
            "StorageConnectionUnknown",
            "spec.datasets[0].storageRef.name and spec.out",
        ),
        (
            (MINIO | {"allowedNamespaces": ["team-b"]},),
            "StorageConnectionNotAllowed",
            "namespace team-a may not use the storage connection minio",
        ),
    ],
)
def test_what_a_job_may_not_use_it_waits_for(
    connections: tuple[dict[str, Any], ...], reason: str, said: str
) -> None:
    made, options = job(**BOTH), known(*connections)
    record = transitions.accepted(made.ref, made.spec_sha256, TIME)
    found = decide(Observed(made, record), options, 0.0)
    assert found.actions == ()
    assert found.waiting is not None
    assert found.waiting.reason == reason
    assert said in found.waiting.message
    assert "platform admin" in found.waiting.fix
    assert storages_of(made.spec, options, NAMESPACE) is None


def test_what_a_job_may_use_is_not_waited_for() -> None:
    assert connection_lack(job(**BOTH).spec, known(), NAMESPACE) is None


def pod(sandbox: str) -> dict[str, Any]:
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "PodReadyToStartContainers", "status": sandbox},
    ]
    return {
        "metadata": {
            "name": "stj-digits-v7-train-x",
            "uid": "1",
            "ownerReferences": [{"uid": "train-uid", "controller": True}],
        },
        "status": {
            "phase": "Pending",
            "startTime": TIME,
            "conditions": conditions,
            "containerStatuses": [waiting("ContainerCreating")],
        },
    }


NOW = times.epoch(TIME)


@pytest.mark.parametrize(
    ("sandbox", "age", "spec", "reason"),
    [
        ("False", 30.0, BOTH, "VolumesNotMounted"),
        ("False", 3.0, BOTH, "PodStarting"),
        ("True", 30.0, BOTH, "PodStarting"),
        ("False", 30.0, {}, "PodStarting"),
    ],
)
def test_a_pod_that_waits_for_its_secret_is_told_apart(
    sandbox: str, age: float, spec: dict[str, Any], reason: str
) -> None:
    made = job(**spec)
    child = ChildRecord(
        name="stj-digits-v7-train",
        uid="train-uid",
        template={},
        template_digest="sha256:" + "0" * 64,
        launched=TIME,
    )
    record: LaunchRecord = transitions.accepted(made.ref, made.spec_sha256, TIME).with_changes(
        phase="Training", children={Purpose.TRAIN: child}
    )
    observed = Observed(
        made,
        record,
        children={Purpose.TRAIN: Child("stj-digits-v7-train", "train-uid", "active", created=NOW)},
        pods=(pod(sandbox),),
    )
    found = decide(observed, known(), NOW + age).waiting
    assert found is not None
    assert found.reason == reason
    if reason == "VolumesNotMounted":
        assert "Secret minio-login" in found.message
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in found.fix


def test_the_secrets_of_two_connections_are_both_suspected() -> None:
    spec = job(datasets=[DATASET], output=OUTPUT | {"storageRef": {"name": "archive"}}).spec
    assert secret_names(spec, known()) == "minio-login or archive-login"
    starting = diagnose.Diagnosis("ImagePullFailed", "no image")
    assert diagnose.with_logins(starting, [], "minio-login", NOW) is starting
