"""The ConfigMap that shows a job's audit trail to people; namespace users can edit it.

The launch record is what counts; the signed head beside the lines is what proves them.
"""

from __future__ import annotations

from typing import Any

from securetrain.api import names
from securetrain_operator.build import meta
from securetrain_operator.core.record import LaunchRecord


def audit_view(record: LaunchRecord) -> dict[str, Any]:
    """ConfigMap `<name>-audit` with `audit.jsonl` and, once signed, the final head."""
    text = "".join(f"{line}\n" for line in record.audit)
    data = {names.AUDIT_KEY: text}
    if record.head_signature is not None:
        data[names.HEAD_KEY] = record.head_signature
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta.metadata(record.job, names.audit_config_map(record.job.name)),
        "data": data,
    }
