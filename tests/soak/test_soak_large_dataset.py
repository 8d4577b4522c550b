"""4 GiB of images: sealed in a tenth of that, and trained on in a pod that may hold 1.5 GiB.

The pod holds TensorFlow too. What sealing and the pods took at most is in `build/soak/large.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from localcluster.cluster import Cluster
from localcluster.platform import ROOT, Platform
from support import node, sealing

WORK = ROOT / "build" / "soak" / "cluster"
RESULTS = ROOT / "build" / "soak" / "large.json"
NAMESPACE = "team-large"
JOB = "large"
SIDE = 64
IMAGE_BYTES = SIDE * SIDE * 3
RECORDS = (4 << 30) // IMAGE_BYTES
CHUNK = 4096
LIMIT = 1536 << 20
SEAL_LIMIT = RECORDS * IMAGE_BYTES // 10

pytestmark = pytest.mark.timeout(7200)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    shutil.rmtree(WORK, ignore_errors=True)
    cluster = Cluster()
    cluster.up()
    try:
        platform = Platform(cluster, WORK)
        platform.set_vault_up(NAMESPACE)
        platform.install()
        platform.open_namespace(NAMESPACE)
        yield platform
    finally:
        cluster.down()
        shutil.rmtree(WORK, ignore_errors=True)


def write_images(path: Path) -> None:
    """Noise, which nothing can compress, in which a bright row says the class."""
    labels = (np.arange(RECORDS) % 10).astype(np.int64)
    drawn = np.random.default_rng(1)
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            form = {"descr": "|u1", "fortran_order": False, "shape": (RECORDS, SIDE, SIDE, 3)}
            np.lib.format.write_array_header_2_0(member, form)
            for start in range(0, RECORDS, CHUNK):
                some = labels[start : start + CHUNK]
                images = drawn.integers(0, 128, (len(some), SIDE, SIDE, 3), np.uint8)
                images[np.arange(len(some)), 6 * some] += 100
                member.write(images.tobytes())
        with archive.open("labels.npy", "w") as member:
            np.lib.format.write_array(member, labels)


def test_four_gigabytes_are_trained_on_in_a_pod_of_one_and_a_half(platform: Platform) -> None:
    source = platform.work / "large.npz"
    write_images(source)
    folder = platform.work / "large"
    seconds, sealer = seal(platform, source, folder)
    source.unlink()
    platform.hand_over(folder, NAMESPACE, "large")
    sealed = [path.stat().st_size for path in folder.rglob("*.sealed")]
    shutil.rmtree(folder)  # the volume has its copy
    assert sum(sealed) >= 4 << 30
    assert max(sealed) <= 17 << 20
    job = sealing.manifest(
        NAMESPACE, JOB, "large", model={"architecture": "mlp", "parameters": {"hidden": "16"}}
    )
    platform.cluster.kubectl.apply(job)
    peaks = watch(platform)
    status = node.get(platform, "stj", NAMESPACE, JOB)["status"]
    results = {
        "sealedBytes": sum(sealed),
        "shards": len(sealed),
        "sealSeconds": round(seconds),
        "sealerBytesAtMost": sealer,
        "podLimitBytes": LIMIT,
        "heldBytesAtMost": peaks,
        "status": {key: status.get(key) for key in ("phase", "startTime", "completionTime")},
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    assert status["phase"] == "Succeeded", status["conditions"]
    assert sealer < SEAL_LIMIT
    assert set(peaks) == {"train", "certify"}
    assert max(peaks.values()) < LIMIT


def seal(platform: Platform, source: Path, folder: Path) -> tuple[float, int]:
    """Seconds that it took, and the most memory that it had."""
    new = ["new", "policy", "--namespace", NAMESPACE, "--output-kek", f"{NAMESPACE}-models"]
    policy = platform.work / "policy.json"
    policy.write_text(platform.run("securetrain", *new).stdout)
    options = ["--kek", f"{NAMESPACE}-digits", "--policy", str(policy)]
    command = ["securetrain", "seal", str(source), str(folder), *options]
    began = time.monotonic()
    sealer = subprocess.Popen(command, env=platform.environment)
    _, status, usage = os.wait4(sealer.pid, 0)
    sealer.returncode = os.waitstatus_to_exitcode(status)
    assert sealer.returncode == 0
    return time.monotonic() - began, usage.ru_maxrss * 1024


def watch(platform: Platform) -> dict[str, int]:
    """Most memory that the pod of each phase has taken, until the job has ended."""
    peaks: dict[str, int] = {}
    while True:
        job = node.get(platform, "stj", NAMESPACE, JOB)
        if job.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return peaks
        for pod in node.get(platform, "pods", NAMESPACE)["items"]:
            phase = pod["metadata"]["name"].removeprefix(f"stj-{JOB}-").split("-")[0]
            peaks[phase] = max(peaks.get(phase, 0), held(platform, pod["metadata"]["uid"]))
        time.sleep(1)


def held(platform: Platform, pod_uid: str) -> int:
    """Bytes that the pod's container holds now; 0 if it does not run."""
    try:
        return node.held_memory(node.process_of(platform, pod_uid))
    except (StopIteration, FileNotFoundError, ProcessLookupError):
        return 0
