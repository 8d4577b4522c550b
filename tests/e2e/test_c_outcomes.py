"""Jobs that must not succeed, and how they say so: status, exit code, what lies in storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from localcluster.platform import Platform
from securetrain.errors import ExitCode
from securetrain.signing.verify import verify_model
from support import node, on_storage
from support.outcomes import (
    NAMESPACE,
    PRECIOUS,
    corrupt_shard,
    failure,
    signing_key,
    watch,
)
from support.s3_server import S3Server

TRAIN_OF_BUCKET = "securetrain.dev/job=bucket,securetrain.dev/purpose=train"

pytestmark = pytest.mark.usefixtures("submitted")


def models(platform: Platform, name: str) -> Path:
    """Where a job's model would be."""
    return platform.volume(NAMESPACE, "models") / name


def test_a_flipped_byte_in_a_shard(platform: Platform, dataset: Path) -> None:
    code, said = watch(platform, "flipped")
    assert code == ExitCode.INTEGRITY
    assert failure(platform, "flipped") == ("Failed", "ShardCorrupt")
    assert corrupt_shard(dataset).name in said


def test_an_edited_policy(platform: Platform) -> None:
    code, said = watch(platform, "edited")
    assert code == ExitCode.INTEGRITY
    assert failure(platform, "edited") == ("Failed", "WrongKey")
    assert "policy.json" in said


def test_a_job_that_the_owner_does_not_allow(platform: Platform) -> None:
    code, said = watch(platform, "others")
    assert code == ExitCode.REFUSED
    assert failure(platform, "others") == ("Failed", "PolicyDenied")
    assert "team-b" in said


def test_a_missed_gate_is_sealed_and_reported_but_not_signed(platform: Platform) -> None:
    code, _ = watch(platform, "missed")
    assert code == ExitCode.GATES_MISSED
    assert failure(platform, "missed") == ("Failed", "GatesMissed")
    model = models(platform, "missed")
    assert {"weights.safetensors.sealed", "report.json", "report.html", "audit.jsonl"} <= {
        path.name for path in model.iterdir()
    }
    assert not (model / "model.sig").exists()
    verified = platform.run("securetrain", "verify", str(model), "--key", __file__, check=False)
    assert verified.returncode == ExitCode.INTEGRITY


def test_an_output_that_exists_is_left_alone(platform: Platform) -> None:
    code, _ = watch(platform, "there")
    assert code == ExitCode.CONFIGURATION
    assert failure(platform, "there") == ("Failed", "OutputExists")
    (precious,) = models(platform, "there").iterdir()
    assert precious.read_text() == PRECIOUS
    assert node.record_of(platform, NAMESPACE, "there")["grants"] == []


def test_a_full_volume_is_named_and_holds_no_half_a_model(
    platform: Platform, tiny_volume: Path
) -> None:
    code, said = watch(platform, "full")
    assert code == ExitCode.CONFIGURATION
    assert failure(platform, "full") == ("Failed", "StorageFull")
    assert "no room" in said
    assert list(tiny_volume.iterdir()) == []


def test_a_vault_error_that_quotes_keys_ends_a_job_with_our_own_words(platform: Platform) -> None:
    code, said = watch(platform, "echoed")
    assert code == ExitCode.CONFIGURATION
    assert failure(platform, "echoed") == ("Failed", "VaultMisconfigured")
    assert "cannot handle" not in said


def test_a_job_whose_dataset_and_model_lie_in_a_bucket(
    platform: Platform, s3: S3Server, tmp_path: Path
) -> None:
    code, said = watch(platform, "bucket")
    assert code == ExitCode.OK, said
    prefix = "models/bucket/"
    names = s3.names(on_storage.BUCKET, "models/")
    assert {name.removeprefix(prefix) for name in names} == {
        "audit.jsonl", "key.json", "model.json", "model.sig", "policy.json", "report.html",
        "report.json", "weights.safetensors.sealed",
    }  # fmt: skip
    for name in names:
        body = s3.client.get_object(Bucket=on_storage.BUCKET, Key=name)["Body"]
        (tmp_path / name.removeprefix(prefix)).write_bytes(body.read())
    verified = verify_model(tmp_path, signing_key(platform).read_bytes())
    assert verified.claim["verdict"] == "evaluated"
    (pod,) = node.get(platform, "pods", NAMESPACE, "-l", TRAIN_OF_BUCKET)["items"]
    assert not [v for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]


def test_a_missing_login_is_waited_for_and_named(platform: Platform) -> None:
    reason = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=VolumesNotMounted"
    wait = ["-n", NAMESPACE, f"--for={reason}", "--timeout=300s"]
    platform.cluster.kubectl("wait", "stj/no-login", *wait)
    conditions = node.get(platform, "stj", NAMESPACE, "no-login")["status"]["conditions"]
    (ready,) = [entry for entry in conditions if entry["type"] == "Ready"]
    assert "Secret no-such-login may be missing" in ready["message"]


def test_a_missing_claim_is_waited_for_and_named(platform: Platform) -> None:
    kubectl = platform.cluster.kubectl
    reason = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=ClaimMissing"
    kubectl("wait", "stj/waiting", "-n", NAMESPACE, f"--for={reason}", "--timeout=300s")
    assert node.get(platform, "jobs", NAMESPACE, "-l", "securetrain.dev/job=waiting")["items"] == []


def test_a_pod_whose_image_was_patched_and_back_gets_no_keys_again(
    platform: Platform, patched_and_back: None
) -> None:
    kubectl = platform.cluster.kubectl
    kubectl("wait", "stj/patched", "-n", NAMESPACE, "--for=condition=Failed", "--timeout=300s")
    record = node.record_of(platform, NAMESPACE, "patched")
    assert record["failure"]["reason"] == "NotOurPod"
    assert len(record["grants"]) == 1
