"""NumPy archives are read as numbers, whatever they claim."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from securetrain.errors import InvalidInput
from securetrain.sealed.examples import parse_example
from securetrain.sealed.sources import npz
from securetrain.sealed.sources.base import Record, Wishes
from securetrain.sealed.sources.npz import NpzSource
from support.sealed_folders import repack, write_npz

IMAGES: NDArray[Any] = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS: NDArray[Any] = np.array([0, 1, 2, 1, 0], dtype=np.uint8)


def opened(path: Path, **wishes: Any) -> tuple[NpzSource, list[dict[str, Any]], list[Record]]:
    """The source, its records parsed, and the records as they are."""
    source = NpzSource(path, Wishes(**wishes))
    records = list(source.scan())
    return source, [parse_example(record.example) for record in records], records


def npy(array: NDArray[Any]) -> bytes:
    """An array as .npy bytes."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_gray_and_colour(tmp_path: Path) -> None:
    gray, parsed, _ = opened(write_npz(tmp_path / "a.npz", images=IMAGES, labels=LABELS))
    assert gray.features["image"].shape == (4, 3, 1)
    assert gray.task.labels == ("0", "1", "2")
    assert parsed[1] == {"image": [IMAGES[1].tobytes()], "label": [1]}
    colour = np.repeat(IMAGES[..., np.newaxis], 3, axis=3)
    file = write_npz(
        tmp_path / "b.npz", x=colour, y=LABELS.astype(">i4"), who=np.array(list("aabbc"))
    )
    source, parsed, records = opened(
        file, images_key="x", label="y", group="who", label_names=("cat", "dog", "cow")
    )
    assert source.features["image"].shape == (4, 3, 3)
    assert [record.group for record in records] == ["a", "a", "b", "b", "c"]
    assert source.task.labels == ("cat", "dog", "cow")
    assert [record.label for record in records] == LABELS.tolist()
    assert [example["label"] for example in parsed] == [[label] for label in LABELS.tolist()]


def test_compressed_and_fortran_order(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, images=np.asfortranarray(IMAGES), labels=LABELS)
    _, parsed, _ = opened(file)
    assert [example["image"] for example in parsed] == [[image.tobytes()] for image in IMAGES]


def test_records_come_whole_whatever_fits_into_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_npz(tmp_path / "a.npz", images=IMAGES, labels=LABELS, who=LABELS)
    _, whole, _ = opened(file, group="who")
    for size in (1, 13, 24, 59):
        monkeypatch.setattr(npz, "CHUNK_BYTES", size)
        assert opened(file, group="who")[1] == whole


def test_contents_ignore_the_label(tmp_path: Path) -> None:
    twice = np.concatenate([IMAGES, IMAGES])
    other = np.concatenate([LABELS, 2 - LABELS])
    _, _, records = opened(write_npz(tmp_path / "a.npz", images=twice, labels=other))
    assert len({record.content for record in records}) == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": IMAGES.astype(np.float32)}, "give images as uint8"),
        ({"images": IMAGES.astype(np.uint16)}, "give images as uint8"),
        ({"images": IMAGES.reshape(5, 12)}, "shape"),
        ({"images": IMAGES[:0]}, "shape"),
        ({"labels": LABELS[:4]}, "one per image"),
        ({"labels": LABELS.astype(np.float64)}, "integers"),
        ({"labels": LABELS.astype(np.int8) - 1}, "out of range"),
        ({"labels": LABELS.astype(np.int64) + 10_000}, "out of range"),
    ],
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    arrays = {"images": IMAGES, "labels": LABELS, **changes}
    with pytest.raises(InvalidInput, match=says):
        opened(write_npz(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a", "b"), "no name for label 2"),
        (("a", "b", "b"), "repeats"),
        (("a", "b", ""), "printable"),
        (("a", "b", "\x1b[2J"), "printable"),
    ],
)
def test_wrong_label_names(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    file = write_npz(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    with pytest.raises(InvalidInput, match=says):
        opened(file, label_names=names)


def test_missing_files_and_arrays(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InvalidInput, match=r"not a \.npz"):
        opened(tmp_path / "text.npz")
    file = write_npz(tmp_path / "a.npz", pictures=IMAGES, labels=LABELS)
    with pytest.raises(InvalidInput, match="which has: pictures, labels"):
        opened(file)


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self._file,))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    images = np.empty((1, 1, 1), dtype=object)
    images[0, 0, 0] = Trap(sprung)
    np.savez(tmp_path / "a.npz", images=images, labels=LABELS[:1])
    with pytest.raises(InvalidInput, match="give images as uint8"):
        opened(tmp_path / "a.npz")
    with pytest.raises(InvalidInput):
        opened(repack(tmp_path / "b.npz", images=pickle.dumps(Trap(sprung))))
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(5, 4, 3)", "(1099511627776, 1048576, 1048576)"),
        ("(5, 4, 3)", "(-5, -4, 3)"),
        ("(5, 4, 3)", "(5, 4, 2)"),
        ("(5, 4, 3)", "(5, 4, 3, 'x')"),
        ("'|u1'", "'|S0'"),
        ("'|u1'", "'nonsense'"),
        ("{", "["),
        ("\x93NUMPY\x01", "\x93NUMPY\x09"),
    ],
)
def test_lying_headers_allocate_nothing(tmp_path: Path, old: str, new: str) -> None:
    plain = npy(IMAGES)
    data = plain.replace(old.encode("latin-1"), new.encode("latin-1"))
    if len(data) > len(plain):  # keep the header's length, which is padded with spaces
        data = data.replace(b" " * (len(data) - len(plain)), b"", 1)
    assert data != plain
    with pytest.raises(InvalidInput, match=r"can be read|has the type"):
        opened(repack(tmp_path / "a.npz", images=data, labels=npy(LABELS)))


def test_a_damaged_archive(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy(IMAGES))
        archive.writestr("labels.npy", npy(LABELS))
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            source, _, _ = opened(file)
        except InvalidInput:
            continue
        assert len(source) == 5
