"""Folders of real PNG and JPEG files: bytes stay, sizes and channels are checked."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from securetrain.errors import InvalidInput
from securetrain.sealed.examples import parse_example
from securetrain.sealed.sources.base import Seekable
from securetrain.sealed.sources.probe import MAX_PIXELS, Picture, check_whole, probe
from support.real_sources import CLASSES, SIDE, encoded, image_folder, picture
from support.sources import records_of, source_of, values_of


def test_files_are_sealed_byte_for_byte_under_the_name_of_their_folder(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 12)
    source = source_of(root)
    assert len(source) == 12
    assert source.task.labels == CLASSES
    assert source.features["image"].shape == (SIDE, SIDE, 3)
    assert source.features["image"].resize is None
    stored = {(path.parent.name, path.read_bytes()) for path in root.rglob("*.*")}
    found = {(CLASSES[each["label"][0]], each["image"][0]) for each in values_of(source)}
    assert found == stored
    assert isinstance(source, Seekable)
    for record in records_of(source):
        assert source.read(record.where, record.span) == record.example


def test_names_give_the_classes_their_order(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 6)
    source = source_of(root, label_names=("owl", "cat", "dog"))
    labels = {parse_example(r.example)["image"][0]: r.label for r in records_of(source)}
    assert labels[(root / "owl" / "0002.png").read_bytes()] == 0
    for names, says in ((("owl", "cat"), "not among"), ((*CLASSES, "emu"), "not a folder")):
        with pytest.raises(InvalidInput, match=says):
            source_of(root, label_names=names)


def test_what_is_no_image_is_left_out_and_said(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 6)
    (root / "cat" / "notes.txt").write_text("hello")
    (root / "cat" / ".hidden.png").write_bytes(b"x")
    (root / ".cache").mkdir()
    source = source_of(root)
    assert len(source) == 6
    assert "left out, no images: 2" in source.notes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"side": 9}, "has 9×9 pixels, others 12×12.*--image-size"),
        ({"channels": 1}, "has 1 channels, others 3.*--channels"),
    ],
)
def test_images_that_differ_need_the_owners_word(
    tmp_path: Path, change: dict[str, int], says: str
) -> None:
    root = image_folder(tmp_path / "images", 6)
    (root / "owl" / "odd.png").write_bytes(encoded(picture(2, 99, **change)))
    with pytest.raises(InvalidInput, match=f"odd.png.*{says}"):
        source_of(root)
    source = source_of(root, image_size=(SIDE, SIDE), channels=3)
    assert source.features["image"].resize is (True if "side" in change else None)


def test_grey_with_transparency_needs_the_owners_word(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        out = io.BytesIO()
        Image.new("LA", (4, 4), (number, 9)).save(out, "PNG")
        (tmp_path / name / "x.png").write_bytes(out.getvalue())
    with pytest.raises(InvalidInput, match="transparency"):
        source_of(tmp_path)
    assert source_of(tmp_path, channels=1).features["image"].shape == (4, 4, 1)


MODES = [
    ("1", 1, "PNG"),
    ("L", 1, "PNG"),
    ("I;16", 1, "PNG"),
    ("P", 3, "PNG"),
    ("LA", 2, "PNG"),
    ("RGB", 3, "PNG"),
    ("RGBA", 4, "PNG"),
    ("L", 1, "JPEG"),
    ("RGB", 3, "JPEG"),
]


@pytest.mark.parametrize(("mode", "channels", "kind"), MODES)
@pytest.mark.parametrize("progressive", [False, True])
def test_headers_tell_what_pil_wrote(
    mode: str, channels: int, kind: str, progressive: bool
) -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "a description " * 40
    options = {"progressive": progressive, "exif": exif} if kind == "JPEG" else {}
    Image.new(mode, (31, 17)).save(out, kind, **options)
    assert probe(out.getvalue()) == Picture(17, 31, channels)
    check_whole(out.getvalue())


def test_a_cmyk_jpeg_is_refused() -> None:
    out = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(out, "JPEG")
    with pytest.raises(ValueError, match="not decoded"):
        probe(out.getvalue())


def test_a_picture_that_would_fill_the_memory_is_refused() -> None:
    data = bytearray(encoded(picture(0, 0)))
    data[16:24] = struct.pack(">II", 1 << 13, (MAX_PIXELS >> 13) + 1)
    with pytest.raises(ValueError, match="too large"):
        probe(bytes(data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_file_is_named_and_never_sealed(tmp_path: Path, kind: str) -> None:
    root = image_folder(tmp_path / "images", 6)
    whole = encoded(picture(1, 5), kind)
    odd = root / "dog" / f"odd.{'png' if kind == 'PNG' else 'jpg'}"
    for length in (len(whole) - 3, len(whole) * 2 // 3):
        odd.write_bytes(whole[:length])
        with pytest.raises(InvalidInput, match=odd.name):
            records_of(source_of(root))
    odd.write_bytes(whole)
    assert len(records_of(source_of(root))) == 7


def check_all(data: bytes) -> None:
    probe(data)
    check_whole(data)


def test_a_flipped_bit_of_a_png_is_found() -> None:
    whole = encoded(np.zeros((3, 3, 3), np.uint8))
    for at in range(8, len(whole)):
        flipped = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
        with pytest.raises(ValueError, match=r"PNG|is cut|is damaged|too large"):
            check_all(flipped)


def test_a_folder_without_classes_or_images(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.png").write_bytes(encoded(picture(0, 0)))
    with pytest.raises(InvalidInput, match="two or more names"):
        source_of(tmp_path)
    (tmp_path / "other").mkdir()
    assert len(source_of(tmp_path)) == 1
    (tmp_path / "only" / "a.png").unlink()
    with pytest.raises(InvalidInput, match="neither files of one kind"):
        source_of(tmp_path)
