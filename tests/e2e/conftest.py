"""One real cluster for all end-to-end tests: kubelet, containerd, OpenBao, the built images.

Tests run in the order in which they stand here: they tell stories. Most of a job's time is the
start of TensorFlow, so jobs are submitted long before the tests that look at them, and together.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from localcluster import images, network
from localcluster.cluster import Cluster
from localcluster.platform import OPERATOR_NAMESPACE, ROOT, Platform
from localcluster.versitygw import VersityGateway
from localcluster.volumes import make_claim
from support import leak, leftovers, node, on_storage, outcomes, sealing
from support.api import eventually
from support.echoing_vault import EchoingVault
from support.raw_audit import RawAudit, raw_audit
from support.reaper import Reaper
from support.s3_server import S3Server
from support.unguarded import without_guard
from support.witness import Witness

WORK = ROOT / "build" / "e2e"
NAMESPACE = outcomes.NAMESPACE
ENDLESS = {"epochs": 100_000}
LONG = {"epochs": 30}
"""Some seconds, so that a pod that has its keys is still at work when it is struck."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Put the tests of this folder last, in the order in which they were written."""
    here = Path(__file__).parent
    mine = [item for item in items if here in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.timeout(1200))
    yield
    items[:] = [*(item for item in items if item not in mine), *mine]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster; it is taken down again unless it was up before."""
    cluster = Cluster()
    was_up = all(process.running for process in cluster.processes)
    cluster.up()
    try:
        images.load(cluster.node.containerd)
        shutil.rmtree(WORK, ignore_errors=True)
        yield cluster
    finally:
        if not was_up:
            cluster.down()


@pytest.fixture(scope="session")
def vault_secrets(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawAudit]:
    """What only Vault knows: every key, wrapping token and login since this began."""
    with raw_audit(cluster.openbao, tmp_path_factory.mktemp("vault") / "raw.jsonl") as vault:
        yield vault


@pytest.fixture(scope="session")
def witness(cluster: Cluster) -> Iterator[Witness]:
    """Sees what all pods show since this began; the images were there before."""
    witness = Witness(WORK / "evidence")
    witness.start()
    yield witness
    witness.stop()


@pytest.fixture(scope="session")
def echo(cluster: Cluster) -> Iterator[EchoingVault]:
    """A Vault whose errors tell everything."""
    with EchoingVault(cluster.openbao) as echo:
        yield echo


@pytest.fixture(scope="session")
def s3(cluster: Cluster) -> Iterator[S3Server]:
    """An S3 server that pods can reach."""
    server = VersityGateway(cluster.state / "s3", listen=("127.0.0.1", network.HOST))
    try:
        server.start()
        yield S3Server(server)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def platform(
    cluster: Cluster, witness: Witness, vault_secrets: RawAudit, echo: EchoingVault, s3: S3Server
) -> Platform:
    """The operator, installed, and a namespace for jobs."""
    vaults, storages = {outcomes.ECHOING: echo.address}, on_storage.connections(s3)
    platform = Platform(cluster, WORK, vaults=vaults, storages=storages)
    platform.remove_namespaces("thief", leak.NAMESPACE, NAMESPACE)
    platform.set_vault_up(NAMESPACE)
    platform.make_namespace(OPERATOR_NAMESPACE, {})
    platform.cluster.kubectl.apply(leftovers.PENDING_RELEASE)
    platform.install()
    platform.open_namespace(NAMESPACE)
    return platform


@pytest.fixture(scope="session")
def dataset(platform: Platform) -> Path:
    """A sealed dataset of a few hundred marked digits."""
    source = sealing.some_digits(platform.work / "digits.npz", 800)
    return sealing.seal(platform, NAMESPACE, source, outcomes.DATASET)


@pytest.fixture(scope="session")
def victim(platform: Platform, dataset: Path) -> node.RunningPod:
    """A training pod that has its keys, trains for hours, and is left a tenth of a core."""
    job = sealing.manifest(NAMESPACE, "victim", dataset.name, training=ENDLESS, pod=sealing.IDLE)
    platform.cluster.kubectl.apply(job)
    ready = "--for=condition=KeysGranted"
    platform.cluster.kubectl("wait", "stj/victim", "-n", NAMESPACE, ready, "--timeout=300s")
    pod = node.running_pod(platform, NAMESPACE, "securetrain.dev/job=victim")
    node.throttle(pod.pid, 0.1)
    return pod


@pytest.fixture(scope="session")
def tiny_volume(platform: Platform) -> Iterator[Path]:
    """A claim of models that has no room for a model."""
    folder = platform.volume(NAMESPACE, "tiny")
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_mount():  # a run was killed
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    left = f"{NAMESPACE}-tiny"
    platform.cluster.kubectl("delete", "persistentvolume", left, "--ignore-not-found")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=True)
    try:
        make_claim(platform.cluster.kubectl, NAMESPACE, "tiny", folder)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def submitted(
    platform: Platform,
    dataset: Path,
    victim: node.RunningPod,
    tiny_volume: Path,
    s3: S3Server,
) -> Iterator[Reaper]:
    """Everything at once: jobs that fail, a second victim, and three jobs that are struck."""
    prey = {
        "stj-killed-train": ("keys.granted", SIGKILL),
        "stj-bereft-certify": ("tensorflow.ready", SIGKILL),
        "stj-left-alone-train": ("keys.granted", SIGSTOP),
        "stj-patched-train": ("keys.granted", SIGSTOP),
    }
    reaper = Reaper(NAMESPACE, prey)
    reaper.start()
    slow = {"resources": {"requests": {"cpu": "250m"}, "limits": sealing.MEMORY}}
    platform.cluster.kubectl.apply(
        sealing.manifest(NAMESPACE, "killed", dataset.name, training=LONG),
        sealing.manifest(NAMESPACE, "bereft", dataset.name),
        sealing.manifest(NAMESPACE, "patched", dataset.name, training=ENDLESS, pod=slow),
        sealing.manifest(NAMESPACE, "left-alone", dataset.name, training=LONG, pod=sealing.IDLE),
    )
    outcomes.submit(platform, dataset)
    on_storage.submit(platform, dataset, s3)
    yield reaper
    reaper.stop()


@pytest.fixture(scope="session")
def patched(platform: Platform, submitted: Reaper) -> node.RunningPod:
    """A victim of its own, which stood still until now: what is done to it ends its job."""
    eventually(lambda: "stj-patched-train" in submitted.struck, "keys", seconds=300)
    os.kill(submitted.struck["stj-patched-train"].pid, SIGCONT)
    return node.running_pod(platform, NAMESPACE, "securetrain.dev/job=patched")


@pytest.fixture(scope="session")
def patched_and_back(platform: Platform, patched: node.RunningPod, victim: node.RunningPod) -> None:
    """Without the guard, the patched container restarts as a new process of the same pod.

    The foreign image is a copy under another name: one that ends by itself ends the job too,
    before it is patched back.
    """
    own, foreign = platform.images["trainer"], "localhost/stranger:1"
    platform.cluster.node.containerd.ctr("images", "tag", "--force", own, foreign)

    def started() -> str:
        status = node.get(platform, "pod", NAMESPACE, patched.name)["status"]
        return str(status["containerStatuses"][0].get("containerID"))

    with without_guard(platform, "securetrain-pod-frozen", victim):
        for image in (foreign, own):
            before = started()
            change = [f"pod/{patched.name}", f"trainer={image}"]
            platform.cluster.kubectl("set", "image", *change, "-n", NAMESPACE)
            eventually(lambda old=before: started() != old, "another container starts", seconds=180)
