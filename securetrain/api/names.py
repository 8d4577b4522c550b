"""Names that several parts must agree on: API group, labels, children, formats."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

GROUP: Final = "securetrain.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "SecureTrainingJob"
PLURAL: Final = "securetrainingjobs"
SINGULAR: Final = "securetrainingjob"
SHORT_NAME: Final = "stj"
CRD_NAME: Final = f"{PLURAL}.{GROUP}"

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "securetrain"
JOB_LABEL: Final = f"{GROUP}/job"
JOB_UID_LABEL: Final = f"{GROUP}/job-uid"
PURPOSE_LABEL: Final = f"{GROUP}/purpose"
NAMESPACE_LABEL: Final = f"{GROUP}/jobs"
NAMESPACE_LABEL_VALUE: Final = "enabled"

GUARDS: Final = (
    "securetrain-connect",
    "securetrain-pod-frozen",
    "securetrain-pod-create",
    "securetrain-job",
    "securetrain-token",
    "securetrain-netpol",
    "securetrain-status",
)
"""ValidatingAdmissionPolicies, and bindings of the same names, that must deny before any grant."""

CHILD_PREFIX: Final = "stj-"
SERVICE_ACCOUNT: Final = "securetrain-job"
RECORD_KEY: Final = "record.json"
AUDIT_KEY: Final = "audit.jsonl"
HEAD_KEY: Final = "head.dsse.json"
"""Key, in the mirror of a finished job, of the signed head of its audit trail."""

GATEWAY_PORT: Final = 8443
HEALTH_PORT: Final = 8080
RUN_SPEC_ENV: Final = "SECURETRAIN_RUN"
TOKEN_MOUNT: Final = "/var/run/secrets/securetrain"  # noqa: S105 a path, not a token
TOKEN_FILE: Final = f"{TOKEN_MOUNT}/token"
DATASET_MOUNT: Final = "/dataset"
OUTPUT_MOUNT: Final = "/output"
STORAGE_MOUNT: Final = "/var/run/secrets/securetrain-storage"
CONTAINER: Final = "trainer"


class Purpose(StrEnum):
    """What a child Job is for; also the part of its name and of the Vault role's name."""

    TRAIN = "train"
    CERTIFY = "certify"


class Split(StrEnum):
    """The parts of a dataset; each has a data key of its own."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


MODEL_KEY_NAME: Final = "model"

SPLITS_OF: Final = {Purpose.TRAIN: (Split.TRAIN, Split.VALIDATION), Purpose.CERTIFY: (Split.TEST,)}
"""The splits whose keys a pod of each purpose may have: training code can never read test data."""


def child_job(name: str, purpose: Purpose) -> str:
    """Name of the batch/v1 Job of one purpose."""
    return f"{CHILD_PREFIX}{name}-{purpose}"


def network_policy(name: str) -> str:
    """Name of a job's NetworkPolicy."""
    return f"{CHILD_PREFIX}{name}"


def audit_config_map(name: str) -> str:
    """Name of the ConfigMap that shows a job's audit trail to people."""
    return f"{name}-audit"


def launch_record(uid: str) -> str:
    """Name of the ConfigMap, in the operator's namespace, that the gateway trusts."""
    return f"launch-{uid}"


def vault_role(purpose: Purpose, namespace: str) -> str:
    """Vault role and policy under which the operator asks for wrapped keys."""
    return f"st-{purpose}-{namespace}"


SIGN_ROLE: Final = "st-sign"
GATEWAY_ROLE: Final = "st-gateway"


def dek_prefix(split: Split) -> str:
    """Prefix of the associated data of a split's DEKs, by which Vault's policies tell splits."""
    return f"securetrain/dek/v1|{split}|"


def dek_associated_data(split: Split, dataset_sha256: str, policy_sha256: str) -> bytes:
    """Associated data that binds a wrapped DEK to split, manifest and owner's policy."""
    return f"{dek_prefix(split)}{dataset_sha256}|{policy_sha256}".encode()


MODEL_DEK_PREFIX: Final = "securetrain/model-dek/v1|"
"""Prefix of every model DEK's context, which Vault's policies demand."""


def model_dek_context(job_uid: str, policy_sha256: str) -> bytes:
    """Derivation context of a job's model DEK."""
    return f"{MODEL_DEK_PREFIX}{job_uid}|{policy_sha256}".encode()


def shard_associated_data(dataset_id: str, split: Split, index: int, count: int) -> bytes:
    """Associated data that binds a shard to its place in its dataset."""
    return f"securetrain/shard/v1|{dataset_id}|{split}|{index}|{count}".encode()


def model_file_associated_data(model_id: str, path: str) -> bytes:
    """Associated data that binds a sealed file to its place in its model."""
    return f"securetrain/model/v1|{model_id}|{path}".encode()


def key_check_info(owner_id: str, name: str) -> bytes:
    """HKDF info of a key check value.

    Args:
        owner_id: id of a dataset or a model.
        name: a split, or `model`.
    """
    return f"securetrain/key-check/v1|{owner_id}|{name}".encode()


CORRELATION_HEADER: Final = "X-Correlation-ID"
"""Header that Vault's audit log keeps in clear."""


def correlation_id(job_uid: str, seq: int, record_sha256: str) -> str:
    """Value of `CORRELATION_HEADER` that anchors one audit record in Vault's own audit log."""
    return f"stj/{job_uid}/{seq}/{record_sha256}"
