"""A pod that imitates ours, and what the gateway answers it: for the demo and the tests."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Final

from localcluster.errors import ClusterError
from localcluster.platform import OPERATOR_NAMESPACE, Platform
from securetrain.api.names import SERVICE_ACCOUNT

AUDIENCE: Final = f"local/{OPERATOR_NAMESPACE}/securetrain"
PATIENCE: Final = 300.0
"""Seconds for the pod: other jobs may fill the node."""
ASK: Final = """
import json, ssl, time, urllib.request, urllib.error
token = open("/var/run/secrets/securetrain/token").read()
body = json.dumps({"sequence": 1, "summary": "hello"}).encode()
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
request = urllib.request.Request("https://%s/v1/progress", body, headers)
for attempt in range(30):
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            print(json.dumps({"status": answer.status, "reason": "OK"}))
            break
    except urllib.error.HTTPError as error:
        problem = json.loads(error.read())
        if error.code not in (429, 503) or attempt == 29:
            print(json.dumps({"status": error.code, "reason": problem["reason"]}))
            break
    except OSError:  # nobody knows the gateway's name yet, or nobody answers
        if attempt == 29:
            raise
    time.sleep(1)
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and reason of the gateway's answer."""

    status: int
    reason: str


def imitation(namespace: str, name: str, image: str, gateway: str) -> dict[str, Any]:
    """A pod with our image, service account and audience, in a namespace of the imitator's."""
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    source = {
        "serviceAccountToken": {"path": "token", "audience": AUDIENCE, "expirationSeconds": 600}
    }
    mount = {"name": "token", "mountPath": "/var/run/secrets/securetrain", "readOnly": True}
    container = {
        "name": "trainer",
        "image": image,
        "command": ["/opt/venv/bin/python", "-c", ASK % gateway],
        "resources": {"requests": {"cpu": "250m"}},
        "securityContext": restricted,
        "volumeMounts": [mount],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceAccountName": SERVICE_ACCOUNT,
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "token", "projected": {"sources": [source]}}],
        },
    }


def call_gateway_from(platform: Platform, namespace: str, gateway: str) -> Answer:
    """Run the imitation in a namespace of its own and return what it was answered."""
    kubectl = platform.cluster.kubectl
    platform.make_namespace(namespace, {})
    account = {"name": SERVICE_ACCOUNT, "namespace": namespace}
    kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    kubectl("delete", "pod", "imitation", "-n", namespace, "--ignore-not-found")
    kubectl.apply(imitation(namespace, "imitation", platform.images["operator"], gateway))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        phase = kubectl(
            "get", "pod", "imitation", "-n", namespace, "-o", "jsonpath={.status.phase}"
        )
        if phase in ("Succeeded", "Failed"):
            break
        time.sleep(0.5)
    words = kubectl("logs", "imitation", "-n", namespace).strip().splitlines()
    if not words:
        raise ClusterError("the imitation said nothing.")
    return Answer(**json.loads(words[-1]))
