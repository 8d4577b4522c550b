"""How a sender and the receiver in a pod speak: a length, a JSON header, and then raw bytes.

    request   u32 length · {"op": …, "name": …, "size": …, …} · `size` bytes to write or create
    answer    u32 length · {"error": …} or {"size": …, …} · `size` bytes

Both sides bound every length before they read, and refuse what is not exactly of this form.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import Field, model_validator

from securetrain.api.gateway import Sha256
from securetrain.api.types import Model
from securetrain.errors import ManifestInvalid
from securetrain.sealed import strict_json

MISSING: Final = "Missing"
"""An answer's `error` for a file that is not there."""
MAX_HEADER: Final = 4096
MAX_SIZE: Final = 1 << 40
MAX_LISTED: Final = 1_000_000
CHUNK: Final = 1 << 17
"""Bytes of one piece of a payload."""
NAME: Final = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$"
"""A file of a sealed folder: at most one folder deep, and no part begins with a dot."""

_LENGTH: Final = struct.Struct(">I")
ModelT = TypeVar("ModelT", bound=Model)
Size = Annotated[int, Field(ge=0, le=MAX_SIZE)]


class Request(Model):
    """What is asked of the receiver."""

    op: Literal["list", "digest", "read", "write", "create", "remove"]
    name: Annotated[str, Field(pattern=NAME)] | None = None
    """Needed by all but `list`."""
    size: Size = 0
    """Bytes that follow, of `write` and `create`."""
    sha256: Sha256 | None = None
    """Digest of those bytes."""
    limit: Size = 0
    """Most files of `list`, most bytes of `read`."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        writes = self.op in ("write", "create")
        if (self.name is None) != (self.op == "list"):
            raise ValueError("name is needed by every op but list")
        if (self.sha256 is None) == writes or (self.size and not writes):
            raise ValueError("size and sha256 belong to write and create, and to no other op")
        if self.limit and self.op not in ("list", "read"):
            raise ValueError("limit belongs to list and read")
        return self


class Answer(Model):
    """What the receiver says; its own words for people are in `message` and `fix`."""

    error: Annotated[str, Field(max_length=64)] | None = None
    """Reason of an error of ours, or `MISSING`."""
    message: Annotated[str, Field(max_length=1024)] = ""
    fix: Annotated[str, Field(max_length=1024)] = ""
    size: Size = 0
    """Bytes that follow."""
    sha256: Sha256 | None = None
    created: bool = True
    """False if `create` found a file of that name."""


def pack(header: Model) -> bytes:
    """The bytes that stand before a payload."""
    data = strict_json.dump_line(header)
    if len(data) > MAX_HEADER:
        raise ValueError("a header is too long")
    return _LENGTH.pack(len(data)) + data


def unpack(model: type[ModelT], read_exactly: Callable[[int], bytes]) -> ModelT | None:
    """The next header; None at the end of the stream.

    Args:
        model: what it must be.
        read_exactly: gives that many bytes, or fewer at the end of the stream.

    Raises:
        ManifestInvalid: it is cut, too long, or not of the form.
    """
    prefix = read_exactly(_LENGTH.size)
    if not prefix:
        return None
    length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
    if not 0 < length <= MAX_HEADER:
        raise ManifestInvalid("a frame is cut, or its header is too long.")
    data = read_exactly(length)
    if len(data) != length:
        raise ManifestInvalid("a frame is cut.")
    return strict_json.parse(model, data, name="a frame", limit=MAX_HEADER)
