"""What root on the node can do: the strongest position from which tests attack the gateway.

A token is read where kubelet wrote it, and calls are made from within a pod's own network, so that
what refuses them is the gateway and nothing before it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcluster.platform import OPERATOR_NAMESPACE, Platform

CALL = """
import json, ssl, sys, time, urllib.error, urllib.request
url, token, body = json.load(sys.stdin)
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
for attempt in range(30):
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            status, said = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, said = error.code, error.read()
    if status not in (429, 503) or b"GrantLost" in said:  # else nothing was done: come again
        break
    time.sleep(1)
print(json.dumps([status, json.loads(said or b"{}")]))
"""


@dataclass(frozen=True)
class Answer:
    """The gateway's answer."""

    status: int
    body: Mapping[str, Any]

    @property
    def reason(self) -> str:
        """The problem document's reason."""
        return str(self.body.get("reason", ""))


@dataclass(frozen=True)
class RunningPod:
    """A pod with what root on its node knows of it."""

    name: str
    namespace: str
    uid: str
    pid: int
    token: str


def get(platform: Platform, kind: str, namespace: str, *more: str) -> Any:
    """`kubectl get -o json`."""
    return json.loads(platform.cluster.kubectl("get", kind, "-n", namespace, *more, "-o", "json"))


def process_of(platform: Platform, pod_uid: str, container: str = "trainer") -> int:
    """PID of a pod's container."""
    containerd = platform.cluster.node.containerd
    labels = {
        "io.kubernetes.pod.uid": pod_uid,
        "io.cri-containerd.kind": "container",
        "io.kubernetes.container.name": container,
    }
    wanted = ",".join(f'labels."{key}"=={value}' for key, value in labels.items())
    made = containerd.ctr("containers", "ls", "-q", wanted).split()
    tasks = [line.split() for line in containerd.ctr("tasks", "ls").splitlines()]
    return next(int(task[1]) for task in tasks if task[0] in made and task[2] == "RUNNING")


def throttle(pid: int, share: float) -> None:
    """Leave a container a share of one core, past Kubernetes."""
    quota, period = round(share * 100_000), 100_000
    old, folder = _control_group(pid, "cpu")
    if old:
        (folder / "cpu.cfs_quota_us").write_text(str(quota))
    else:
        (folder / "cpu.max").write_text(f"{quota} {period}")


def held_memory(pid: int) -> int:
    """Bytes that a container holds and the kernel cannot drop: anonymous and shared memory."""
    old, folder = _control_group(pid, "memory")
    lines = (folder / "memory.stat").read_text().splitlines()
    stat = {name: int(value) for name, value in (line.split() for line in lines)}
    return stat["total_rss"] + stat["total_shmem"] if old else stat["anon"] + stat["shmem"]


def _control_group(pid: int, controller: str) -> tuple[bool, Path]:
    """Whether it is one of version 1, and its folder."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    groups = dict(line.split(":", 2)[1:] for line in lines)
    for controllers, group in groups.items():
        if controller in controllers.split(","):
            return True, Path(f"/sys/fs/cgroup/{controller}{group}")
    return False, Path(f"/sys/fs/cgroup{groups['']}")


def token_of(platform: Platform, pod_uid: str, volume: str) -> str:
    """A pod's projected token as kubelet wrote it on the node."""
    folder = platform.cluster.state / "kubelet" / "pods" / pod_uid / "volumes"
    return (folder / "kubernetes.io~projected" / volume / "token").read_text().strip()


def running_pod(
    platform: Platform, namespace: str, labels: str, *, wait: float = 300
) -> RunningPod:
    """The one running pod of a job."""
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        pods = [
            pod
            for pod in get(platform, "pods", namespace, "-l", labels)["items"]
            if pod["status"].get("phase") == "Running"
        ]
        if pods:
            metadata, spec = pods[0]["metadata"], pods[0]["spec"]
            volume = next(v["name"] for v in spec["volumes"] if "projected" in v)
            return RunningPod(
                metadata["name"],
                namespace,
                metadata["uid"],
                process_of(platform, metadata["uid"]),
                token_of(platform, metadata["uid"], volume),
            )
        time.sleep(0.3)
    raise AssertionError(f"no pod with {labels} is running")


def call_gateway(
    platform: Platform,
    path: str,
    body: Mapping[str, Any],
    token: str,
    *,
    inside: RunningPod | None = None,
) -> Answer:
    """Call the gateway, from the node's address or from within a pod's network."""
    services = get(platform, "service", OPERATOR_NAMESPACE, "securetrain-gateway")
    url = f"https://{services['spec']['clusterIP']}{path}"
    enter = ["nsenter", "--target", str(inside.pid), "--net"] if inside else []
    result = subprocess.run(
        [*enter, sys.executable, "-c", CALL],
        input=json.dumps([url, token, body]),
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    status, answer = json.loads(result.stdout)
    return Answer(status, answer)


def launch_record(platform: Platform, uid: str) -> dict[str, Any]:
    """A job's launch record."""
    view = get(platform, "configmap", OPERATOR_NAMESPACE, f"launch-{uid}")
    record: dict[str, Any] = json.loads(view["data"]["record.json"])
    return record


def progress(platform: Platform, namespace: str, job: str) -> str:
    """When a job last told how far it is."""
    status = get(platform, "stj", namespace, job)["status"]
    return str(status.get("progress", {}).get("lastUpdatedTime", ""))


def record_of(platform: Platform, namespace: str, job: str) -> dict[str, Any]:
    """The launch record of a job that is known by its name."""
    return launch_record(platform, get(platform, "stj", namespace, job)["metadata"]["uid"])
