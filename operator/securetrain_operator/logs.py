"""Log lines of the operator: JSON on standard error, with a fixed list of fields.

Standard output belongs to the audit records. An exception's text and the values in its traceback
stay out: only its type and place are logged.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

FIELDS: Final = ("job_uid", "pod_uid", "namespace", "job_name", "reason", "status")
"""Extra fields that may be logged, besides time, level, logger, message and error."""
QUIET: Final = {
    "kopf": logging.WARNING,
    "kubernetes": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.WARNING,
    "urllib3": logging.WARNING,
}


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record, without line feed."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: str(record.__dict__[name]) for name in FIELDS if name in record.__dict__}
        if record.exc_info and record.exc_info[1]:
            line["error"] = describe(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def configure(level: int = logging.INFO) -> None:
    """Send all logging to standard error as JSON lines, and keep chatty libraries quiet."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, threshold in QUIET.items():
        logging.getLogger(name).setLevel(threshold)


def describe(error: BaseException) -> str:
    """Type and place of an exception, without any value of it."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    code = trace.tb_frame.f_code
    return (
        f"{type(error).__name__} at {Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
    )
