"""Objects that the API server accepts, to be bent by tests."""

from __future__ import annotations

from typing import Any

from securetrain.api import names
from securetrain.api.gateway import JobRef
from securetrain_operator.build import account, meta
from support.chart import AUDIENCE

Object = dict[str, Any]

IMAGE = "registry.example.org/team-a/train@sha256:" + "c" * 64


def training_job(name: str = "digits-v7", namespace: str = "team-a", **spec: Any) -> Object:
    """A minimal job; keyword arguments replace fields of its spec."""
    return {
        "apiVersion": "securetrain.dev/v1alpha1",
        "kind": "SecureTrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "datasets": [{"name": "digits", "uri": "pvc://datasets/digits"}],
            "model": {"architecture": "cnn"},
            "output": {"uri": f"pvc://models/{name}", "kek": "team-a-models"},
            **spec,
        },
    }


def claim(name: str, namespace: str) -> Object:
    """A volume claim; in a cluster without a provisioner it stays as it is."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def job_ref(name: str = "digits-v7", namespace: str = "team-a") -> JobRef:
    """A job as its children know it; the UID is of no object."""
    return JobRef(namespace=namespace, name=name, uid="11111111-2222-3333-4444-555555555555")


def pod_spec(*, audience: str | None = AUDIENCE) -> Object:
    """A pod with a projected token of that audience, or none."""
    token = {"serviceAccountToken": {"audience": audience, "path": "token"}}
    amounts = {"cpu": "1", "memory": "64Mi"}
    container = {
        "name": names.CONTAINER,
        "image": IMAGE,
        "resources": {"requests": amounts, "limits": amounts},
    }
    return {
        "restartPolicy": "Never",
        "serviceAccountName": names.SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": "token", "projected": {"sources": [token]}}] if audience else [],
    }


def pod(name: str, namespace: str = "team-a", *, audience: str | None = AUDIENCE) -> Object:
    """A bare pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": pod_spec(audience=audience),
    }


def child(name: str = "digits-v7", namespace: str = "team-a") -> Object:
    """A train Job as the operator makes it, without an owner."""
    job = job_ref(name, namespace)
    metadata = {
        "name": names.child_job(name, names.Purpose.TRAIN),
        "namespace": namespace,
        "labels": meta.labels(job),
    }
    template = {"metadata": {"labels": meta.labels(job)}, "spec": pod_spec()}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"template": template, "backoffLimit": 0},
    }


def foreign_job(name: str, namespace: str = "team-a", *, audience: str | None = None) -> Object:
    """A Job that is not ours, unless by its name or audience."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {"spec": pod_spec(audience=audience)}},
    }


def service_account(namespace: str = "team-a") -> Object:
    """The service account of a namespace's job pods."""
    return account.service_account(namespace)


def network_policy(name: str, namespace: str = "team-a", **spec: Any) -> Object:
    """A NetworkPolicy that selects everything and closes ingress, unless told otherwise."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], **spec},
    }
