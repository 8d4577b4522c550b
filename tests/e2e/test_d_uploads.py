"""A data owner sends a dataset into a claim through a pod, breaks off, goes on, and fetches it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

from localcluster.platform import Platform
from securetrain.sealed.dataset import load_dataset
from support import outcomes
from support.uploads import sealed

NAMESPACE = outcomes.NAMESPACE
PODS = ("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=securetrain-transfer")


def whole_shards(folder: Path) -> dict[str, int]:
    """Inodes by name, without files that still grow or that a killed receiver left."""
    return {path.name: path.stat().st_ino for path in folder.glob("shards/[!.]*")}


def test_a_broken_upload_leaves_no_pod_and_the_next_one_goes_on(
    platform: Platform, tmp_path: Path
) -> None:
    folder = sealed(tmp_path / "noise", 96)
    uri, there = "pvc://datasets/team/sent", platform.volume(NAMESPACE, "datasets") / "team/sent"
    command = ["securetrain", "upload", str(folder), uri, "-n", NAMESPACE]
    with subprocess.Popen(
        command, env=platform.environment, stderr=subprocess.PIPE, text=True
    ) as broken:
        while broken.poll() is None and len(whole_shards(there)) < 3:
            time.sleep(0.005)
        broken.send_signal(signal.SIGTERM)
        said = broken.communicate(timeout=120)[1]
    assert f"Go on with: securetrain upload {folder} {uri} -n {NAMESPACE}" in said
    assert broken.returncode != 0
    kept = whole_shards(there)
    assert not (there / "dataset.json").exists()

    told = json.loads(platform.run(*command, "--output", "json").stdout)
    assert told["kept"] >= len(kept)
    assert kept.items() <= whole_shards(there).items()
    assert (there / "dataset.json").stat().st_uid == 10001
    back = tmp_path / "back"
    platform.run("securetrain", "download", uri, str(back), "-n", NAMESPACE)
    platform.run("securetrain", "inspect", str(back), "--deep")
    assert load_dataset(back).manifest_sha256 == load_dataset(folder).manifest_sha256
    left = platform.cluster.kubectl(*PODS, "-o", "json")
    alive = [pod for pod in json.loads(left)["items"] if "deletionTimestamp" not in pod["metadata"]]
    assert alive == []
