"""Both phases of a run whose dataset and model lie on a real S3 server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from securetrain.api.types import Gate
from securetrain.errors import (
    GatesMissed,
    ManifestInvalid,
    ModelCorrupt,
    OutputExists,
    SecuretrainError,
    ShardCorrupt,
    StorageDenied,
    StorageMisconfigured,
    StorageUnavailable,
    VaultUnavailable,
)
from securetrain.sealed.dataset import load_dataset
from securetrain.storage.s3 import S3Store
from securetrain_trainer import places
from support.buckets import mounted, opened
from support.s3_run import DATASET, MODEL, STAGING, S3Run, new_run
from support.s3_server import S3Server
from support.trainer_kit import GivenKeys, missed

TRAINED = {"model.json", "weights.safetensors.sealed", "policy.json", "key.json"}
WHOLE = TRAINED | {"report.json", "report.html", "audit.jsonl", "model.sig"}


@pytest.fixture
def run(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Run:
    monkeypatch.setattr(places, "PATIENCE", 0.0)
    return new_run(s3_server, tmp_path)


def test_a_run_reads_and_writes_nothing_but_the_bucket(run: S3Run, tmp_path: Path) -> None:
    run.train()
    assert run.files(STAGING).keys() == TRAINED
    assert run.files(MODEL) == {}
    operator = run.certify()
    assert run.files(STAGING) == {}
    files = run.files(MODEL)
    assert files.keys() == WHOLE
    sent = {digest.path: digest.sha256 for digest in operator.requests[-1].files}
    assert sent.keys() == WHOLE - {"key.json", "audit.jsonl", "model.sig"}
    dataset = load_dataset(tmp_path / "data")
    assert run.read == sum(len(entries) for entries in dataset.indexes.values())
    with opened(run.server, f"s3://{run.bucket}/{DATASET}") as store:
        remote = load_dataset(store)
    assert (remote.manifest_bytes, remote.policy_bytes, remote.keys, remote.indexes) == (
        dataset.manifest_bytes, dataset.policy_bytes, dataset.keys, dataset.indexes,
    )  # fmt: skip


def test_the_login_is_in_no_word_and_no_object_of_a_run(
    run: S3Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run.train()
    operator = run.certify()
    told = [run.spec().model_dump_json(), *map(str, (run.operator, operator)), *capfd.readouterr()]
    assert "keys.granted" in "".join(told)
    written = run.files("models") | {"told": "".join(told).encode()}
    for secret in (run.server.access_key.encode(), run.server.secret_key.reveal()):
        assert not [name for name, data in written.items() if secret in data]


def test_a_certify_pod_is_repeated_before_and_after_the_model_is_published(run: S3Run) -> None:
    run.train()
    run.put(f"{STAGING}/report.json", b"left by one that died")
    run.certify()
    first = run.files(MODEL)
    run.put(f"{STAGING}/policy.json", b"left by one that died while it tidied up")
    run.certify()
    assert run.files(MODEL) == first
    assert run.files(STAGING) == {}


@pytest.mark.parametrize(("moment", "replace_output"), [("create", False), ("copy", True)])
def test_a_lost_certify_pod_that_goes_on_harms_nothing(
    run: S3Run, monkeypatch: pytest.MonkeyPatch, moment: str, replace_output: bool
) -> None:
    """It hangs before a request; its successor publishes meanwhile, and tidies up."""
    if replace_output:
        run.train()
        run.certify()
        run.uid = "other-" + run.uid[6:]
    run.train(replace_output=replace_output)
    request, published = getattr(S3Store, moment), []

    def hang(store: S3Store, *arguments: Any) -> Any:
        monkeypatch.setattr(S3Store, moment, request)
        run.certify(replace_output=replace_output)
        published.append(run.files(MODEL))
        return request(store, *arguments)

    monkeypatch.setattr(S3Store, moment, hang)
    run.certify(replace_output=replace_output)
    files = run.files(MODEL)
    assert files.keys() == WHOLE
    assert run.uid.encode() in files["key.json"]
    assert published == [files]
    assert run.files(f"{MODEL}.{run.uid}.partial") == {}


def test_a_model_that_missed_its_gates_is_stored_unsigned_and_replaces_none(run: S3Run) -> None:
    gates = (Gate(metric="accuracy", min=1.1),)
    run.train()
    with pytest.raises(GatesMissed):
        run.certify(missed, gates=gates)
    before = run.files(MODEL)
    assert before.keys() == WHOLE - {"model.sig"}
    run.uid = "other-" + run.uid[6:]
    run.train(replace_output=True)
    with pytest.raises(GatesMissed):
        run.certify(missed, gates=gates, replace_output=True)
    assert run.files(MODEL) == before
    assert run.files(f"{MODEL}.{run.uid}.partial").keys() == before.keys()


def test_what_is_there_is_kept_or_replaced_as_asked(run: S3Run) -> None:
    run.train()
    run.certify()
    first, asked = run.files(MODEL), run.keys.asked
    run.uid = "other-" + run.uid[6:]
    with pytest.raises(OutputExists, match="'m1' holds objects already"):
        run.train()
    assert run.keys.asked == asked
    assert run.files(MODEL) == first
    run.train(replace_output=True)
    run.certify(replace_output=True)
    assert run.files(MODEL).keys() == WHOLE
    assert run.uid.encode() in run.files(MODEL)["key.json"]


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


DATASET_HARMS: dict[str, tuple[str, Callable[[bytes], bytes | None], type[SecuretrainError]]] = {
    "a bit of a shard": ("shards/train-00000-of-", flip, ShardCorrupt),
    "a shard that is cut": ("shards/train-00001-of-", lambda data: data[:-9], ShardCorrupt),
    "a missing shard": ("shards/validation-00000-of-", lambda _: None, ShardCorrupt),
    "a bit of an index": ("train.index.jsonl", flip, ManifestInvalid),
    "a missing manifest": ("dataset.json", lambda _: None, ManifestInvalid),
    "a missing policy": ("policy.json", lambda _: None, ManifestInvalid),
    "a manifest without end": ("dataset.json", lambda _: bytes(2 << 20), ManifestInvalid),
}


@pytest.mark.parametrize("harm", DATASET_HARMS)
def test_a_dataset_that_was_harmed_is_refused_by_file(run: S3Run, harm: str) -> None:
    start, change, kind = DATASET_HARMS[harm]
    names = sorted(run.server.names(run.bucket, f"{DATASET}/{start}"))
    changed = change(run.get(names[0]))
    if changed is None:
        run.remove(names[0])
    else:
        run.put(names[0], changed)
    with pytest.raises(kind) as caught:
        run.train()
    assert names[0].removeprefix(f"{DATASET}/") in str(caught.value)
    assert caught.value.exit_code == 12
    assert run.files(STAGING) == {}
    assert run.keys.asked == (kind is ShardCorrupt)


MODEL_HARMS: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "a bit of the weights": ("weights.safetensors.sealed", flip),
    "missing weights": ("weights.safetensors.sealed", lambda _: None),
    "another policy": ("policy.json", lambda _: b"{}"),
    "another manifest": ("model.json", lambda data: data.replace(b"rows-v1", b"rows-v2")),
    "a missing key file": ("key.json", lambda _: None),
    "one object more": ("saved_model.pb", lambda _: b"x"),
    "one object deeper": ("variables/x", lambda _: b"x"),
    "no model": ("model.json", lambda _: None),
}


@pytest.mark.parametrize("harm", MODEL_HARMS)
def test_a_stored_model_that_was_harmed_gets_no_key(run: S3Run, harm: str) -> None:
    run.train()
    name, change = MODEL_HARMS[harm]
    changed = change(run.files(STAGING).get(name, b""))
    if changed is None:
        run.remove(f"{STAGING}/{name}")
    else:
        run.put(f"{STAGING}/{name}", changed)
    asked = run.keys.asked
    with pytest.raises(ModelCorrupt):
        run.certify()
    assert run.keys.asked == asked
    assert run.files(MODEL) == {}


def test_a_pod_without_keys_changes_no_object(run: S3Run) -> None:
    run.put(f"{STAGING}/model.json", b"of a pod of this job that has its keys")
    before = run.files("models")

    class NoKeys(GivenKeys):
        def acquire(self, *_: Any) -> Any:
            raise VaultUnavailable("Vault is away")

    run.keys = NoKeys(run.keys.deks, run.keys.model)
    with pytest.raises(VaultUnavailable):
        run.train()
    assert run.files("models") == before


def test_a_server_that_goes_away_costs_the_pod_and_not_the_job(run: S3Run) -> None:
    run.keys.on_acquire = run.server.server.stop
    try:
        with pytest.raises(StorageUnavailable) as caught:
            run.train()
    finally:
        run.server.server.start()
    assert caught.value.exit_code == 11
    assert f"s3://{run.bucket}/" in str(caught.value)
    run.keys.on_acquire = lambda: None
    run.train()
    run.certify()
    assert run.files(MODEL).keys() == WHOLE


def test_a_server_that_comes_back_is_waited_for(
    run: S3Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, paused, done = run.server.server, threading.Event(), threading.Event()

    def pause(seconds: float) -> None:
        paused.set()
        time.sleep(seconds)

    def come_back() -> None:
        paused.wait(120)
        server.start()
        done.wait()  # the server dies with the thread that started it

    monkeypatch.setattr(places, "PATIENCE", 120.0)
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=pause)
    monkeypatch.setattr("securetrain.storage.s3.time", clock)
    helper = threading.Thread(target=come_back)
    helper.start()
    run.keys.on_acquire = server.stop
    try:
        run.train()
    finally:
        paused.set()
        done.set()
        helper.join()
        server.stop()
        server.start()
    assert run.files(STAGING).keys() == TRAINED


def test_a_login_that_is_not_let_in_is_named_and_not_told(run: S3Run, tmp_path: Path) -> None:
    run.login = mounted(run.server, tmp_path / "wrong", secret="not-the-secret-of-this-login")
    with pytest.raises(StorageDenied, match="storage connection local") as caught:
        run.train()
    assert caught.value.exit_code == 10
    assert "not-the-secret" not in str(caught.value)
    assert run.keys.asked == 0


@pytest.mark.parametrize(
    "content", [None, b"", b"two\nlines", b"x" * 10_000], ids=["none", "empty", "two", "long"]
)
def test_a_login_that_is_not_there_is_told(
    run: S3Run, tmp_path: Path, content: bytes | None
) -> None:
    file = Path(mounted(run.server, tmp_path / "half")) / "AWS_SECRET_ACCESS_KEY"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    run.login = str(file.parent)
    with pytest.raises(StorageMisconfigured, match="AWS_SECRET_ACCESS_KEY of the st") as told:
        run.train()
    assert told.value.exit_code == 13
