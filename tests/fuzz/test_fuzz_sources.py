"""Whatever lies in a source, opening it ends with a dataset or with one of our errors."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.target import sound_source
from securetrain.errors import InvalidInput
from securetrain.sealed.examples import frame, frame_length, parse_example
from securetrain.sealed.legacy import decrypt, inner
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.opening import SourceKind, kind_of_content, open_source
from securetrain.sealed.sources.probe import check_whole, probe
from securetrain.secret import Secret
from support.real_sources import (
    KEY,
    csv_file,
    encoded,
    legacy,
    npz_file,
    parquet_file,
    picture,
    tfrecord_table,
)

RELAXED = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""A busy machine is no failure."""
WISHES = {
    SourceKind.NPZ: Wishes(),
    SourceKind.CSV: Wishes(label="kind", ignore=("id",)),
    SourceKind.PARQUET: Wishes(label="kind", ignore=("id",)),
    SourceKind.TFRECORD: Wishes(),
}
MAKERS: dict[SourceKind, Callable[[Path], Path]] = {
    SourceKind.NPZ: lambda path: npz_file(path, 4),
    SourceKind.CSV: lambda path: csv_file(path, 12),
    SourceKind.PARQUET: lambda path: parquet_file(path, 12),
    SourceKind.TFRECORD: lambda path: tfrecord_table(path, 4),
}
Edits = list[tuple[float, bytes]]
EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3)), min_size=1, max_size=4
)


def damaged(whole: bytes, edits: list[tuple[float, bytes]]) -> bytes:
    """Some bytes replaced by others, of which there may be fewer."""
    for at, new in edits:
        place = int(at * len(whole))
        whole = whole[:place] + new + whole[place + 2 :]
    return whole


@pytest.fixture(scope="module")
def wholes() -> Iterator[dict[SourceKind, bytes]]:
    """A whole file of each kind."""
    with TemporaryDirectory() as folder:
        yield {
            kind: make(Path(folder, f"{kind}.npz")).read_bytes() for kind, make in MAKERS.items()
        }


@pytest.mark.parametrize("kind", MAKERS)
@RELAXED
@given(edits=EDITS)
def test_damaged_files(
    tmp_path: Path,
    wholes: dict[SourceKind, bytes],
    kind: SourceKind,
    edits: list[tuple[float, bytes]],
) -> None:
    path = tmp_path / "data"
    path.write_bytes(damaged(wholes[kind], edits))
    with contextlib.suppress(InvalidInput):
        source, _ = open_source(path, WISHES[kind], kind=kind)
        sound_source(source)


@pytest.mark.parametrize("kind", MAKERS)
@RELAXED
@given(data=st.binary(max_size=200))
def test_noise_is_no_source(tmp_path: Path, kind: SourceKind, data: bytes) -> None:
    path = tmp_path / "data"
    path.write_bytes(data)
    with pytest.raises(InvalidInput):
        open_source(path, WISHES[kind], kind=kind)
    kind_of_content(data)


@RELAXED
@given(st.binary(max_size=300) | EDITS)
def test_images(data: bytes | list[tuple[float, bytes]]) -> None:
    for whole in (encoded(picture(0, 0)), encoded(picture(0, 0), "JPEG")):
        changed = data if isinstance(data, bytes) else damaged(whole, data)
        for start in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
            with contextlib.suppress(ValueError):
                probe(start + changed)
                check_whole(start + changed)


@RELAXED
@given(st.binary(max_size=200))
def test_examples_and_frames(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_example(data)
    with contextlib.suppress(ValueError):
        frame_length(data[:12])
    assert frame_length(frame(data)[:12]) == len(data)


@RELAXED
@given(st.binary(max_size=200), EDITS)
def test_legacy_files(data: bytes, edits: list[tuple[float, bytes]]) -> None:
    for sealed in (data, base64.b64encode(data), damaged(legacy(data), edits)):
        with contextlib.suppress(ValueError):
            decrypt(sealed, Secret(KEY))
    assert decrypt(legacy(data), Secret(KEY)) == data
    inner(data)
