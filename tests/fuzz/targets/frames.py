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
Files = list[tuple[str, bytes]]


def parse(data: bytes) -> Files:
    """Serve it on an empty claim beside a file that nobody may touch; the files there then."""
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
        files = [(str(path.relative_to(folder)), path.read_bytes()) for path in found]
        assert all(content in data for _, content in files)
        assert not sink.getvalue() or frames.unpack(Answer, io.BytesIO(sink.getvalue()).read)
        return files


def holds(files: Files) -> None:
    """Names of files of a sealed folder; nothing that is not whole is left."""
    for name, _ in files:
        assert re.fullmatch(frames.NAME, name), name


def views(data: bytes) -> Sequence[bytes]:
    """The stream; and one of the requests that its lines are, with lengths and digests."""
    return data, b"".join(map(framed, data.split(b"\n")))


def framed(line: bytes) -> bytes:
    """A request in JSON and the payload behind its `|`, with the digest where it says `%`."""
    header, _, payload = line.partition(b"|")
    header = header.replace(b"%", sha256_hex(payload).encode())
    return len(header).to_bytes(4, "big") + header + payload


TARGET = Target(parse, holds=holds, views=views)
