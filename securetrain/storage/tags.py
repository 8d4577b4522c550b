"""What an object's tag says of its content: S3 documents when it is an MD5, and of what.

A tag tells what a server holds from what somebody meant to send; it is no defence against anybody
who can make collisions. That defence is the SHA-256 of every file, in the sealed formats.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_TAG: Final = re.compile(r'"[0-9a-f]{32}(-[0-9]{1,5})?"')


def of_file(path: Path, part: int) -> str:
    """The tag of a file that is sent in parts of `part` bytes, or whole if it has less than two."""
    with path.open("rb") as stream:
        if path.stat().st_size < 2 * part:
            return f'"{_md5(stream.read()).hexdigest()}"'
        parts = [_md5(piece).digest() for piece in iter(lambda: stream.read(part), b"")]
    return f'"{_md5(b"".join(parts)).hexdigest()}-{len(parts)}"'


def is_opaque(head: Mapping[str, Any]) -> bool:
    """Whether an object's tag is no MD5: so under a key of KMS or of the customer.

    Args:
        head: the answer to HeadObject.
    """
    keyed = str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
    return keyed or "SSECustomerAlgorithm" in head or not _TAG.fullmatch(head["ETag"])


def _md5(data: bytes) -> Any:
    return hashlib.md5(data, usedforsecurity=False)
