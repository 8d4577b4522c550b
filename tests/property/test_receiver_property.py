"""Whatever comes to the receiver: it ends, and nothing is written but what its frames promised."""

from __future__ import annotations

import io
import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securetrain.api.digest import sha256_hex
from securetrain.errors import ManifestInvalid
from securetrain.storage import frames
from securetrain.storage.frames import Request
from securetrain.storage.receive import Receiver
from support.altered_documents import documents

NAMES = ("policy.json", "shards/a.sealed", "dataset.json")
REQUEST = {"op": "write", "name": "policy.json", "size": 4, "sha256": sha256_hex(b"true")}


def framed(header: bytes, payload: bytes = b"") -> bytes:
    return len(header).to_bytes(4, "big") + header + payload


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A frame that is as it should be."""
    op, name = draw(st.sampled_from(("write", "create"))), draw(st.sampled_from(NAMES))
    data = draw(st.binary(max_size=40))
    other = Request.model_validate(
        {"op": draw(st.sampled_from(("digest", "remove"))), "name": name}
    )
    write = Request.model_validate(
        {"op": op, "name": name, "size": len(data), "sha256": sha256_hex(data)}
    )
    listing = Request.model_validate({"op": "list", "limit": 5})
    return draw(
        st.sampled_from((frames.pack(write) + data, frames.pack(other), frames.pack(listing)))
    )


STREAMS = st.lists(
    st.one_of(
        requests(),
        st.binary(max_size=64),
        documents(REQUEST).map(lambda header: framed(header[:5000], b"true")),
        requests().flatmap(lambda frame: st.integers(0, len(frame)).map(lambda at: frame[:at])),
    ),
    max_size=6,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(STREAMS)
def test_nothing_is_written_but_whole_files_of_sound_names(stream: bytes) -> None:
    with tempfile.TemporaryDirectory() as top:
        mount = Path(top) / "mount"
        mount.mkdir()
        sink = io.BytesIO()
        with suppress(ManifestInvalid, EOFError):
            Receiver(mount, "noise").serve(io.BytesIO(stream), sink)
        assert {path.name for path in Path(top).iterdir()} == {"mount"}
        files = [path for path in Path(top).rglob("*") if path.is_file()]
        for path in files:
            assert not path.name.startswith(".")
            assert path.read_bytes() in stream
            assert path.is_relative_to(mount / "noise")


@settings(max_examples=200, deadline=None)
@given(documents(REQUEST))
def test_a_header_is_a_request_or_refused(header: bytes) -> None:
    source = io.BytesIO(framed(header))
    try:
        request = frames.unpack(Request, source.read)
    except ManifestInvalid:
        return
    assert request is not None
    assert request.size <= frames.MAX_SIZE
    assert request.name is None or not set(request.name.split("/")) & {"", ".", ".."}


ELSEWHERE = (
    "../up",
    "/etc/passwd",
    "a/../../b",
    "a/b/c",
    ".hidden",
    "shards/.x",
    "-v",
    "a\nb",
    "a/",
)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.sampled_from(ELSEWHERE), st.text(max_size=20).map(lambda text: f"../{text}")))
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    header = json.dumps({"op": "read", "name": name, "limit": 5}).encode()
    with pytest.raises(ManifestInvalid):
        frames.unpack(Request, io.BytesIO(framed(header)).read)
