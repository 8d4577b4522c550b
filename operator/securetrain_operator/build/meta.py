"""Metadata that all children of a SecureTrainingJob share."""

from __future__ import annotations

from typing import Any

from securetrain.api import names
from securetrain.api.gateway import JobRef


def labels(job: JobRef) -> dict[str, str]:
    """Labels by which a job's children are found; they prove nothing."""
    return {
        names.MANAGED_BY_LABEL: names.MANAGED_BY,
        names.JOB_LABEL: job.name,
        names.JOB_UID_LABEL: job.uid,
    }


def owner(job: JobRef) -> dict[str, Any]:
    """Owner reference through which the garbage collector deletes children with their job."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def metadata(job: JobRef, name: str) -> dict[str, Any]:
    """Metadata of a child."""
    return {
        "name": name,
        "namespace": job.namespace,
        "labels": labels(job),
        "ownerReferences": [owner(job)],
    }
