"""A marker in the training data and the data keys are looked for everywhere but in memory."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.platform import Platform
from securetrain.api.names import Split, dek_associated_data, model_dek_context
from securetrain.sealed.dataset import load_dataset
from securetrain.sealed.model import KEY_FILE, parse_key
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import Custodian
from support import sealing

NAMESPACE = "team-e2e"
MARKER = b"\x5aPLAINTEXT-MARKER-7f3a91c4e2\x5a"


@pytest.fixture(scope="module")
def secrets(platform: Platform) -> dict[str, bytes]:
    """What must be found nowhere, after a job with it has succeeded."""
    source = sealing.some_digits(platform.work / "marked.npz", 800, marker=MARKER)
    folder = sealing.seal(platform, NAMESPACE, source, "marked")
    source.unlink()
    manifest = sealing.job(platform, NAMESPACE, "marked", "marked")
    platform.run("securetrain", "submit", str(manifest), "-n", NAMESPACE, "--watch")
    openbao = platform.cluster.openbao
    dataset = load_dataset(folder)
    key = parse_key((platform.volume(NAMESPACE, "models") / "marked" / KEY_FILE).read_bytes())
    with VaultClient(openbao.address, openbao.ca_pem, token=openbao.root_token) as client:
        owner = Custodian(client, "transit", f"{NAMESPACE}-digits")
        keys = {
            split.value: owner.unwrap(
                dataset.keys[split].wrapped,
                dek_associated_data(split, dataset.manifest_sha256, dataset.policy_sha256),
            )
            for split in Split
        }
        keys["model"] = Custodian(client, key.mount, key.kek).open_model_key(
            key.wrapped, model_dek_context(key.job_uid, key.policy_sha256)
        )
    return {"marker": MARKER, **{name: dek.reveal() for name, dek in keys.items()}}


def spellings(secret: bytes) -> Iterator[bytes]:
    """Raw, hex, and base64 at each of its three alignments."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + secret)
        inner = text[4 if shift else 0 : -4]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))


def places(platform: Platform) -> Iterator[tuple[str, bytes]]:
    """Everything that outlives a pod's memory."""
    state = platform.cluster.state
    folders = {
        "etcd": state / "etcd",
        "component logs": state / "logs",
        "pod logs": Path("/var/log/pods"),
        "kubelet": state / "kubelet",
        "volumes": platform.work / "volumes",
        "OpenBao's log": platform.cluster.openbao.audit_log.parent,
    }
    for what, folder in folders.items():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield f"{what}: {path.name}", path.read_bytes()
    kubectl = platform.cluster.kubectl
    for kind in ("events", "configmaps", "securetrainingjobs", "jobs", "pods", "secrets"):
        yield kind, kubectl("get", kind, "-A", "-o", "json").encode()


def test_the_hunt_would_find_a_planted_secret(platform: Platform, tmp_path: Path) -> None:
    planted = platform.work / "volumes" / NAMESPACE / "planted"
    planted.write_bytes(b"xx" + base64.b64encode(b"y" + MARKER) + b"zz")
    try:
        assert found(platform, {"marker": MARKER}) == ["marker in volumes: planted"]
    finally:
        planted.unlink()


def test_nothing_is_found_in_etcd_logs_events_objects_or_volumes(
    platform: Platform, secrets: dict[str, bytes]
) -> None:
    assert set(secrets) == {"marker", "train", "validation", "test", "model"}
    assert found(platform, secrets) == []


def found(platform: Platform, secrets: dict[str, bytes]) -> list[str]:
    wanted = {name: list(spellings(secret)) for name, secret in secrets.items()}
    return [
        f"{name} in {place}"
        for place, content in places(platform)
        for name, forms in wanted.items()
        if any(form in content for form in forms)
    ]
