"""Log lines that cannot leak: one JSON object a line, built from an allow-list of fields only.

Logs of a pod are readable by more people than its data is, so nothing is ever formatted into a
line: no exception texts of libraries, no shapes of records, no paths but those of manifests.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Final, TextIO

FIELDS: Final = frozenset(
    {
        "attempt", "epoch", "epochs", "percentage", "loss", "valLoss", "valAccuracy", "accuracy",
        "records", "split", "files", "verdict", "reason", "message", "type", "seconds", "waited",
        "purpose", "namespace", "job", "coreLimit", "dumpable", "tmpInMemory", "rootReadOnly",
        "threads", "parameters", "shards", "status",
    }
)  # fmt: skip
MAX_TEXT: Final = 1024

_lock = threading.Lock()


def log(event: str, *, stream: TextIO | None = None, **fields: str | int | float | bool) -> None:
    """Write one line.

    Args:
        event: what happened, such as `epoch.done`.
        stream: where to; standard output if None.
        **fields: names of `FIELDS` only; a text longer than `MAX_TEXT` is cut.

    Raises:
        ValueError: a field is not on the list.
    """
    unknown = fields.keys() - FIELDS
    if unknown:
        raise ValueError(f"log fields {sorted(unknown)} are not on the allow-list")
    shown = {key: v[:MAX_TEXT] if isinstance(v, str) else v for key, v in fields.items()}
    line = json.dumps({"event": event, **shown}, ensure_ascii=False, separators=(",", ":"))
    with _lock:
        print(line, file=stream or sys.stdout, flush=True)
