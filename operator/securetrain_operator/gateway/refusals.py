"""Where refused calls go: a JSON line on standard output, and nowhere near a job's record."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping

Refusals = Callable[[Mapping[str, str]], None]


def to_stdout(refusal: Mapping[str, str]) -> None:
    """Write one refusal as a line of JSON; control characters are escaped."""
    sys.stdout.write(json.dumps({"kind": "gateway.refused", **refusal}) + "\n")
    sys.stdout.flush()
