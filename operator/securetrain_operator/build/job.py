"""The child Jobs: one pod each that trains or certifies, told everything in its own spec.

Whatever the pod is told stands in its template, so it is part of what the gateway attests. Certify
always runs the operator's own image, never the user's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from securetrain.api import names
from securetrain.api.gateway import Endpoint, JobRef, ObjectStorage, RunSpec
from securetrain.api.names import Purpose
from securetrain.api.types import JobSpec, Resources, StorageRef
from securetrain.errors import ExitCode
from securetrain.storage.connection import StorageConnection
from securetrain.storage.uri import StorageUri
from securetrain.vault.connection import VaultConnection
from securetrain_operator.build import meta
from securetrain_operator.build.login import (
    credential_mounts,
    credential_volumes,
    credentials_folder,
)
from securetrain_operator.core.record import LaunchRecord
from securetrain_operator.settings import Settings

KUEUE_PREFIX: Final = "kueue.x-k8s.io/"
USER_ID: Final = 10_001
TOKEN_SECONDS: Final = 600
GRACE_SECONDS: Final = 30
CERTIFY_BACKOFF_LIMIT: Final = 3
DEFAULT_MEMORY: Final = "2Gi"
DEFAULT_CPU: Final = "500m"
TMP_SIZE: Final = "256Mi"
FINAL_EXIT_CODES: Final = (
    ExitCode.REFUSED,
    ExitCode.INTEGRITY,
    ExitCode.CONFIGURATION,
    ExitCode.GATES_MISSED,
)


@dataclass(frozen=True, slots=True)
class Launch:
    """All that a child Job is built from."""

    purpose: Purpose
    job: JobRef
    labels: dict[str, str]
    """The SecureTrainingJob's own labels, of which Kueue's are handed on."""
    spec: JobSpec
    record: LaunchRecord
    settings: Settings
    connection: VaultConnection
    gateway_ca: str
    storages: tuple[StorageConnection, ...] = ()
    """The storage connections that the spec names."""

    @property
    def image(self) -> str:
        """The image that the pod runs."""
        own = self.settings.trainer_image
        return own if self.purpose is Purpose.CERTIFY else self.spec.pod.image or own


def child_job(launch: Launch) -> dict[str, Any]:
    """The batch/v1 Job `stj-<name>-<purpose>`."""
    metadata = meta.metadata(launch.job, names.child_job(launch.job.name, launch.purpose))
    kueue = {k: v for k, v in launch.labels.items() if k.startswith(KUEUE_PREFIX)}
    metadata["labels"] |= kueue | {names.PURPOSE_LABEL: str(launch.purpose)}
    train = launch.purpose is Purpose.TRAIN
    spec: dict[str, Any] = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": launch.spec.backoff_limit if train else CERTIFY_BACKOFF_LIMIT,
        "podFailurePolicy": _pod_failure_policy(),
        "template": _template(launch),
    }
    if launch.spec.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = launch.spec.active_deadline_seconds
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def run_spec(launch: Launch) -> RunSpec:
    """What the pod is told."""
    spec, record, settings = launch.spec, launch.record, launch.settings
    builtin = f"builtin@{settings.trainer_image.rpartition('@')[2]}"
    trained = record.results.get(Purpose.TRAIN)
    certify = launch.purpose is Purpose.CERTIFY
    return RunSpec(
        purpose=launch.purpose,
        job=launch.job,
        dataset_name=spec.dataset.name,
        dataset_path=_path(names.DATASET_MOUNT, spec.dataset.address),
        dataset_storage=_told(launch, spec.dataset.storage_ref),
        dataset_digest=record.dataset.digest if record.dataset else spec.dataset.digest,
        model=spec.model,
        training=spec.training,
        gates=spec.certification.gates,
        output_path=_path(names.OUTPUT_MOUNT, spec.output.address),
        output_storage=_told(launch, spec.output.storage_ref),
        replace_output=spec.output.if_exists == "Replace",
        model_kek=spec.output.kek,
        transit_mount=launch.connection.transit_mount,
        artefacts=trained.files if certify and trained else (),
        spec_sha256=record.spec_sha256,
        image=spec.pod.image or builtin,
        certify_image=builtin,
        gateway=Endpoint(url=settings.gateway_url, ca=launch.gateway_ca),
        vault=Endpoint(url=launch.connection.address, ca=launch.connection.ca),
    )


def _path(mount: str, address: StorageUri) -> str:
    if not address.on_claim:
        return str(address)
    return "/".join(filter(None, (mount, address.path)))


def _told(launch: Launch, ref: StorageRef | None) -> ObjectStorage | None:
    """What the pod is told of a storage connection; its login comes by a volume."""
    if ref is None:
        return None
    storage = next(storage for storage in launch.storages if storage.name == ref.name)
    return storage.told(credentials_folder(storage))


def _pod_failure_policy() -> dict[str, Any]:
    """Disruptions and lost grants cost no attempt; what was refused for good is not tried again."""
    return {
        "rules": [
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            _on_exit("Ignore", (ExitCode.TRY_AGAIN,)),
            _on_exit("FailJob", FINAL_EXIT_CODES),
        ]
    }


def _on_exit(action: str, codes: tuple[ExitCode, ...]) -> dict[str, Any]:
    values = sorted(int(code) for code in codes)
    condition = {"containerName": names.CONTAINER, "operator": "In", "values": values}
    return {"action": action, "onExitCodes": condition}


def _template(launch: Launch) -> dict[str, Any]:
    labels = meta.labels(launch.job) | {names.PURPOSE_LABEL: str(launch.purpose)}
    return {"metadata": {"labels": labels}, "spec": _pod(launch)}


def _pod(launch: Launch) -> dict[str, Any]:
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": names.SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(launch)],
        "volumes": _volumes(launch),
    }
    return pod | _chosen(launch.spec)


def _chosen(spec: JobSpec) -> dict[str, Any]:
    """What the user may choose for both pods: where they run."""
    wire = spec.pod.to_wire()
    return {key: value for key, value in wire.items() if key not in ("image", "resources")}


def _container(launch: Launch) -> dict[str, Any]:
    certify = launch.purpose is Purpose.CERTIFY
    chosen = launch.spec.certification.resources if certify else launch.spec.pod.resources
    return {
        "name": names.CONTAINER,
        "image": launch.image,
        "env": [{"name": names.RUN_SPEC_ENV, "value": _run_text(launch)}],
        "resources": resources(chosen),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": _mounts(launch),
    }


def _run_text(launch: Launch) -> str:
    """The run spec as JSON; kubelet would expand `$(…)` in it, so no dollar sign is left."""
    return (
        run_spec(launch).model_dump_json(by_alias=True, exclude_none=True).replace("$", "\\u0024")
    )


def resources(chosen: Resources | None) -> dict[str, Any]:
    """Container resources; memory is requested in full, so that a pod is not killed for it."""
    limits = dict((chosen and chosen.limits) or {})
    requests = dict((chosen and chosen.requests) or {})
    memory = limits.get("memory", requests.get("memory", DEFAULT_MEMORY))
    limits["memory"] = requests["memory"] = memory
    requests.setdefault("cpu", limits.get("cpu", DEFAULT_CPU))
    return {"requests": requests, "limits": limits}


def _volumes(launch: Launch) -> list[dict[str, Any]]:
    """One volume per claim: kubelet does not mount one claim through two volumes of a pod."""
    source, target = launch.spec.dataset.address, launch.spec.output.address
    token = {
        "serviceAccountToken": {
            "audience": launch.settings.audience,
            "expirationSeconds": TOKEN_SECONDS,
            "path": "token",
        }
    }
    volumes: list[dict[str, Any]] = [
        {"name": "token", "projected": {"sources": [token]}},
        {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": TMP_SIZE}},
        *credential_volumes(launch.storages),
    ]
    if target.on_claim:
        volumes.insert(0, {"name": "output", "persistentVolumeClaim": {"claimName": target.place}})
    if source.on_claim and not _same_claim(source, target):
        claim = {"claimName": source.place, "readOnly": True}
        volumes.insert(0, {"name": "dataset", "persistentVolumeClaim": claim})
    return volumes


def _mounts(launch: Launch) -> list[dict[str, Any]]:
    source, target = launch.spec.dataset.address, launch.spec.output.address
    mounts: list[dict[str, Any]] = []
    if source.on_claim:
        dataset = "output" if _same_claim(source, target) else "dataset"
        mounts.append({"name": dataset, "mountPath": names.DATASET_MOUNT, "readOnly": True})
    if target.on_claim:
        mounts.append({"name": "output", "mountPath": names.OUTPUT_MOUNT})
    return [
        *mounts,
        {"name": "token", "mountPath": names.TOKEN_MOUNT, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 the pod's own, in memory
        *credential_mounts(launch.storages),
    ]


def _same_claim(source: StorageUri, target: StorageUri) -> bool:
    return source.on_claim and target.on_claim and source.place == target.place
