"""Somebody who gives a secret away in every way there is: what a search must be able to find."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from localcluster.errors import ClusterError
from localcluster.platform import Platform
from support import node
from support.api import eventually

NAMESPACE = "leaks"
POD = "leaky"
PULLED = "unpullable"
TELL = """
import json, os, sys, time
secret = bytes.fromhex(sys.argv[1])
print(json.dumps(secret.decode("latin-1")), flush=True)
for path in ("/tmp/leak", "/var/tmp/leak", "/dev/termination-log"):
    with open(path, "wb") as file:
        file.write(b"so: " + secret)
while True:
    time.sleep(0.1)
"""


def plant(platform: Platform, secret: bytes) -> None:
    """Give the secret away in Vault's paths, in a volume, and by two pods."""
    try:
        platform.cluster.openbao.api("GET", f"/v1/sys/{secret.hex()}")
    except ClusterError:
        assert secret.hex() in platform.cluster.openbao.audit_log.read_text()
    volume = platform.work / "volumes" / NAMESPACE
    volume.mkdir(parents=True)
    (volume / "leak").write_bytes(b"x" + base64.urlsafe_b64encode(b"yy" + secret))
    platform.make_namespace(NAMESPACE, {})
    platform.cluster.kubectl.apply(
        _pod(platform, POD, secret), _pod(platform, PULLED, secret, f"localhost/{secret.hex()}:1")
    )


def running(platform: Platform, secret: bytes) -> int:
    """PID of the pod that tells, once it has told all, and kubelet has tried the other's image."""
    kubectl = platform.cluster.kubectl
    kubectl("wait", "pod", POD, "-n", NAMESPACE, "--for=condition=Ready", "--timeout=180s")
    pid = node.process_of(
        platform, node.get(platform, "pod", NAMESPACE, POD)["metadata"]["uid"], POD
    )
    last = Path(f"/proc/{pid}/root/dev/termination-log")
    eventually(lambda: secret in last.read_bytes(), "the pod tells its secret")
    eventually(lambda: "Pull" in _waits_for(platform, PULLED), "an image is pulled", seconds=180)
    return pid


def _waits_for(platform: Platform, name: str) -> str:
    """Why a pod's container does not run: ErrImagePull and ImagePullBackOff take turns."""
    containers = node.get(platform, "pod", NAMESPACE, name)["status"].get("containerStatuses", ())
    return "".join(c["state"].get("waiting", {}).get("reason", "") for c in containers)


def remove(platform: Platform) -> None:
    """Remove the pods with their name space, and the volume."""
    platform.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    (platform.work / "volumes" / NAMESPACE / "leak").unlink()


def _pod(platform: Platform, name: str, secret: bytes, image: str = "") -> dict[str, Any]:
    container = {
        "name": name,
        "image": image or platform.images["operator"],
        "command": ["/opt/venv/bin/python", "-c", TELL, secret.hex().upper()],
        "env": [{"name": "LEAK", "value": base64.b64encode(secret).decode()}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}],
        },
    }
