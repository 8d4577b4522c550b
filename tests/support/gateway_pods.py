"""The pods that Kubernetes makes of the operator's Jobs, as the key gateway's tests see them."""

from __future__ import annotations

import copy
from typing import Any

from securetrain_operator.core.record import ChildRecord
from securetrain_operator.ports import Object

NAMESPACE = "team-a"
NODE = "node-1"
ADDRESS = "127.0.0.1"
"""The test client's own address, so that the peer check sees the pod's."""


def stored_template(body: Object, uid: str) -> dict[str, Any]:
    """A Job's template as the API server returns it, defaults and labels filled in."""
    template: dict[str, Any] = copy.deepcopy(body["spec"]["template"])
    name = body["metadata"]["name"]
    template["metadata"]["labels"] |= {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    spec = template["spec"]
    spec |= {
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "serviceAccount": spec["serviceAccountName"],
    }
    spec["containers"][0]["imagePullPolicy"] = "IfNotPresent"
    for volume in spec["volumes"]:
        if "projected" in volume:
            volume["projected"]["defaultMode"] = 420
    return template


def honest_pod(child: ChildRecord, suffix: str, uid: str) -> Object:
    """The pod that Kubernetes makes of a Job: the template, and what it adds to every pod."""
    metadata = copy.deepcopy(child.template["metadata"])
    spec = copy.deepcopy(child.template["spec"])
    spec |= {"nodeName": NODE, "priority": 0, "preemptionPolicy": "PreemptLowerPriority"}
    spec["tolerations"] = [
        *spec.get("tolerations", []),
        *(
            {
                "key": f"node.kubernetes.io/{key}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            }
            for key in ("not-ready", "unreachable")
        ),
    ]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": child.name,
        "uid": child.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "metadata": metadata
        | {
            "name": f"{child.name}-{suffix}",
            "generateName": f"{child.name}-",
            "namespace": NAMESPACE,
            "uid": uid,
            "generation": 1,
            "ownerReferences": [owner],
            "finalizers": ["batch.kubernetes.io/job-tracking"],
        },
        "spec": spec,
        "status": {
            "phase": "Running",
            "podIP": ADDRESS,
            "podIPs": [{"ip": ADDRESS}],
            "containerStatuses": [
                {
                    "name": "trainer",
                    "restartCount": 0,
                    "imageID": "registry.example/trainer@sha256:" + "b" * 64,
                    "state": {"running": {}},
                }
            ],
        },
    }
