"""Jobs that must not succeed, each for another reason, and how they say so."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from localcluster.platform import Platform
from localcluster.volumes import give_to_pods
from support import node, sealing

NAMESPACE = "team-e2e"
DATASET = "digits"
ECHOING = "echoing"
"""The Vault connection whose errors tell everything."""
PRECIOUS = "do not touch"


def submit(platform: Platform, dataset: Path) -> None:
    """Prepare what is wrong and submit all of the jobs."""
    _flip(platform, dataset)
    _edit(platform, dataset)
    source = platform.work / f"{dataset.name}.npz"
    sealing.seal(platform, NAMESPACE, source, "others", namespaces=["team-b"])
    there = platform.volume(NAMESPACE, "models") / "there"
    there.mkdir()
    (there / "precious").write_text(PRECIOUS)
    give_to_pods(there)
    gates = {"gates": [{"metric": "accuracy", "min": 0.9999}]}
    platform.cluster.kubectl.apply(
        *(_job(name, name) for name in ("flipped", "edited", "others")),
        _job("there"),
        _job("missed", certification={**sealing.SMALL, **gates}),
        _job("full", output={"uri": "pvc://tiny/full", "kek": f"{NAMESPACE}-models"}),
        _job("echoed", vaultConnectionRef={"name": ECHOING}),
        _job("waiting", datasets=[{"name": "digits", "uri": "pvc://nowhere/digits"}]),
    )


def watch(platform: Platform, name: str) -> tuple[int, str]:
    """Follow a job to its end: exit code and what was printed."""
    result = platform.run("securetrain", "watch", name, "-n", NAMESPACE, check=False)
    print(result.stdout, result.stderr)
    return result.returncode, result.stdout + result.stderr


def signing_key(platform: Platform) -> Path:
    """The key that vouches for models and trails, PEM."""
    key = platform.work / "signing-key.pem"
    if not key.exists():
        key.write_text(platform.run("securetrain", "vault", "public-key").stdout)
    return key


def verify_trail(
    platform: Platform, job: str, key: Path, vault_log: Path
) -> subprocess.CompletedProcess[str]:
    """Hold a job's trail against a log of Vault's, both ways."""
    log = ["--vault-log", str(vault_log), "--vault-device", "file"]
    command = ["securetrain", "audit", "verify", job, "-n", NAMESPACE, "--key", str(key), *log]
    return platform.run(*command, check=False)


def failure(platform: Platform, name: str) -> tuple[str, str]:
    """Phase and reason of a job that has failed."""
    status = node.get(platform, "stj", NAMESPACE, name)["status"]
    conditions = {entry["type"]: entry for entry in status["conditions"]}
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Ready"]["status"] == "False"
    return status["phase"], conditions["Failed"]["reason"]


def corrupt_shard(folder: Path) -> Path:
    """The shard of `flipped` in which one byte is another."""
    return min((folder / "shards").glob("train-*"))


def _job(name: str, dataset: str = DATASET, **changes: Any) -> dict[str, Any]:
    return sealing.manifest(NAMESPACE, name, dataset, **changes)


def _copy(platform: Platform, dataset: Path, name: str) -> Path:
    target = platform.volume(NAMESPACE, "datasets") / name
    shutil.copytree(dataset, target)
    give_to_pods(target.parent)
    return target


def _flip(platform: Platform, dataset: Path) -> None:
    shard = corrupt_shard(_copy(platform, dataset, "flipped"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


def _edit(platform: Platform, dataset: Path) -> None:
    policy = _copy(platform, dataset, "edited") / "policy.json"
    content = json.loads(policy.read_text())
    policy.write_text(json.dumps({**content, "notAfter": "2099-01-01T00:00:00Z"}))
