"""Files of the plain AES-CBC recipe: read with the old key, told apart, never trusted."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from securetrain.errors import InvalidInput
from securetrain.sealed.legacy import decrypt, inner, read_keys
from securetrain.sealed.sources.base import Source, Wishes
from securetrain.sealed.sources.opening import SourceKind, open_source
from securetrain.secret import Secret
from support.real_sources import (
    KEY,
    csv_file,
    image_folder,
    legacy,
    legacy_folder,
    npz_file,
    parquet_file,
    tfrecord_table,
)
from support.sources import records_of


def opened(path: Path, key: bytes = KEY, **wishes: str) -> tuple[Source, SourceKind]:
    key_file = path.parent / "key"
    key_file.write_bytes(key)
    return open_source(path, Wishes(**wishes), legacy_key=key_file)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000])
@pytest.mark.parametrize("length", [16, 24, 32])
def test_the_recipe_is_undone(size: int, length: int) -> None:
    content, key = bytes(range(256)) * 4, KEY[:length]
    sealed = legacy(content[:size], key=key)
    assert decrypt(sealed, Secret(key)) == content[:size]
    wrapped = b"\n".join(sealed[at : at + 76] for at in range(0, len(sealed), 76)) + b"\n"
    assert decrypt(wrapped, Secret(key)) == content[:size]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not IV"),
        (b"hello!", "not base64"),
        (base64.b64encode(bytes(16)), "not IV"),
        (base64.b64encode(bytes(33)), "not IV"),
        (base64.b64encode(bytes(48)), "does not open"),
    ],
)
def test_what_is_no_such_file(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decrypt(data, Secret(KEY))


def test_a_second_base64_is_taken_off_only_where_there_is_one() -> None:
    assert inner(base64.b64encode(b"\x89PNG")) == b"\x89PNG"
    assert inner(b"\x89PNG") == b"\x89PNG"
    assert inner(b"") == b""


@pytest.mark.parametrize(
    "form", [KEY, KEY.hex().encode() + b"\n", base64.b64encode(KEY), KEY + b"\n"]
)
def test_a_key_file_is_bytes_hex_or_base64(tmp_path: Path, form: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(form)
    assert Secret(KEY) in read_keys(path)


def test_a_key_that_can_be_read_in_two_ways_is_tried_in_both(tmp_path: Path) -> None:
    text = b"0123456789abcdef0123456789abcdef"
    for key in (text, bytes.fromhex(text.decode())):
        folder = tmp_path / key.hex()
        for path in image_folder(folder, 6).rglob("*.*"):
            path.write_bytes(legacy(path.read_bytes(), key=key))
        assert len(records_of(opened(folder, text)[0])) == 6


def test_a_folder_of_legacy_images_is_the_dataset_that_it_hides(tmp_path: Path) -> None:
    plain, _ = open_source(image_folder(tmp_path / "plain", 12), Wishes())
    found, kind = opened(legacy_folder(tmp_path / "old", 12))
    assert kind is SourceKind.IMAGES
    assert found.features == plain.features
    assert sorted(r.example for r in records_of(found)) == sorted(
        r.example for r in records_of(plain)
    )


@pytest.mark.parametrize(
    ("maker", "kind", "wishes"),
    [
        (csv_file, SourceKind.CSV, {"label": "colour", "group": "id"}),
        (parquet_file, SourceKind.PARQUET, {"label": "colour", "group": "id"}),
        (tfrecord_table, SourceKind.TFRECORD, {}),
    ],
)
def test_a_legacy_file_may_hold_any_other_kind(
    tmp_path: Path, maker: object, kind: SourceKind, wishes: dict[str, str]
) -> None:
    path = tmp_path / "data"
    assert callable(maker)
    maker(path, 40)
    plain, _ = open_source(path, Wishes(**wishes), kind=kind)  # type: ignore[arg-type]
    expected = [record.example for record in records_of(plain)]
    path.write_bytes(legacy(path.read_bytes()))
    found, guessed = opened(path, **wishes)
    assert guessed is kind
    assert [record.example for record in records_of(found)] == expected


def test_a_legacy_npz_with_a_second_base64(tmp_path: Path) -> None:
    path = npz_file(tmp_path / "data.npz", 9)
    path.write_bytes(legacy(path.read_bytes(), twice=True))
    assert len(records_of(opened(path)[0])) == 9


def test_another_key_is_refused_before_anything_else(tmp_path: Path) -> None:
    folder = legacy_folder(tmp_path / "old", 6)
    with pytest.raises(InvalidInput, match="does not open with this key"):
        opened(folder, bytes(32))
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(InvalidInput, match="holds no AES key"):
        open_source(folder, Wishes(), legacy_key=tmp_path / "key")


def test_one_file_of_another_key_is_named(tmp_path: Path) -> None:
    folder = legacy_folder(tmp_path / "old", 6)
    odd = sorted(folder.rglob("*.enc"))[-1]
    odd.write_bytes(legacy(b"x" * 64, key=bytes(32)))
    with pytest.raises(InvalidInput, match=odd.name):
        records_of(opened(folder)[0])


def test_a_legacy_file_without_its_key_is_pointed_out(tmp_path: Path) -> None:
    path = tmp_path / "data.enc"
    path.write_bytes(legacy(b"a,b\n1,2\n"))
    with pytest.raises(InvalidInput, match="--legacy-key-file"):
        open_source(path, Wishes())


def test_a_key_given_as_if_it_were_a_file_is_not_repeated() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_keys(Path("00112233445566778899aabbccddeeff"))
    assert "0011" not in str(caught.value)
