"""What comes to the receiver on a claim: requests, each followed by the bytes of a file."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence

from fuzz.target import Target, file_of
from securetrain.api.digest import sha256_hex
from securetrain.storage import frames
from securetrain.storage.frames import Answer
from securetrain.storage.receive import Receiver

FOLDER = "noise"
OUTSIDE = "outside"
Served = tuple[bytes, list[tuple[str, bytes]]]
"""What was answered; name and content of each file that is there then."""


def parse(data: bytes) -> Served:
    """Serve it on an empty claim, which is beside a file that nobody may touch."""
    with file_of(b"", OUTSIDE) as outside:
        mount, sink = outside.with_name("claim"), io.BytesIO()
        mount.mkdir()
        try:
            Receiver(mount, FOLDER).serve(io.BytesIO(data), sink)
        except EOFError:
            pass  # a payload was cut, and whoever sent it has gone
        finally:
            assert os.listdir(mount) in ([], [FOLDER])
            assert sorted(os.listdir(mount.parent)) == ["claim", OUTSIDE]
        folder = mount / FOLDER
        found = [path for path in folder.rglob("*") if not path.is_dir()]
        return sink.getvalue(), [(str(p.relative_to(folder)), p.read_bytes()) for p in found]


def holds(served: Served) -> None:
    """Whole files of sound names, and answers that the sender can read to the end."""
    said, files = served
    for name, _ in files:
        assert re.fullmatch(frames.NAME, name), name
    source = io.BytesIO(said)
    while (answer := frames.unpack(Answer, source.read)) is not None:
        assert len(source.read(answer.size)) == answer.size


def views(data: bytes) -> Sequence[bytes]:
    """The stream; and one of the requests that its lines are, with lengths and digests."""
    return data, b"".join(map(framed, data.split(b"\n")))


def framed(line: bytes) -> bytes:
    """A request in JSON and the payload behind its `|`, with the digest where it says `%`."""
    header, _, payload = line.partition(b"|")
    header = header.replace(b"%", sha256_hex(payload).encode())
    return len(header).to_bytes(4, "big") + header + payload


TARGET = Target(parse, holds=holds, views=views)
