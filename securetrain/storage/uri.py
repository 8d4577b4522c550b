"""Addresses of sealed folders: `pvc://<claim>/<path>` and `s3://<bucket>/<prefix>`.

The patterns stand here once; the CRD takes them from here. No part of a path begins with a dot or
a dash, so none is `..`, hidden, or an option.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from securetrain.errors import InvalidInput

MAX_URI: Final = 512
MAX_PART: Final = 200

_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
CLAIM: Final = rf"{_LABEL}(\.{_LABEL})*"
BUCKET: Final = r"[a-z0-9]([-a-z0-9]|\.[a-z0-9]){1,61}[a-z0-9]"
_PATH: Final = rf"(/[A-Za-z0-9_=][A-Za-z0-9._=-]{{0,{MAX_PART - 1}}})*"
PVC_URI: Final = rf"pvc://{CLAIM}{_PATH}"
S3_URI: Final = rf"s3://{BUCKET}{_PATH}"
URI: Final = rf"^({PVC_URI}|{S3_URI})$"

PVC: Final = "pvc"
S3: Final = "s3"


@dataclass(frozen=True, slots=True)
class StorageUri:
    """A folder on a claim, or a prefix in a bucket."""

    scheme: Literal["pvc", "s3"]
    place: str
    """Name of the claim or the bucket."""
    path: str
    """Folder or prefix, without slashes at its ends; empty for the whole."""

    @property
    def on_claim(self) -> bool:
        """True for a folder on a claim."""
        return self.scheme == PVC

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}" + (f"/{self.path}" if self.path else "")


def is_storage_uri(text: str) -> bool:
    """True if a text means an address of this kind rather than a local path."""
    return text.startswith((f"{PVC}://", f"{S3}://"))


def parse_uri(text: str, field: str = "uri") -> StorageUri:
    """Parse an address; raises InvalidInput that names `field`."""
    if len(text) > MAX_URI or not re.fullmatch(URI[1:-1], text):
        raise InvalidInput(
            field,
            text,
            "is no address of sealed data",
            fix="write pvc://<claim>/<path> or s3://<bucket>/<prefix>: names of letters, digits and"
            " . _ = -, none beginning with a dot or a dash, no slash at the end",
        )
    scheme, _, rest = text.partition("://")
    place, _, path = rest.partition("/")
    return StorageUri("s3" if scheme == S3 else "pvc", place, path)
