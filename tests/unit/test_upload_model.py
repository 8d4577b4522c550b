"""A model that is there already: only its key is replaced, by one that is not older."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from securetrain.errors import InvalidInput, ManifestInvalid, OutputExists, SecuretrainError
from securetrain.storage.parcel import pack
from securetrain.storage.upload import Sent, upload
from support.claims import claim
from support.sealed_folders import sealed_model

KEY, WEIGHTS = "key.json", "weights.safetensors.sealed"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A signed model here."""
    folder = sealed_model(tmp_path / "model")
    for name in ("report.json", "report.html", "audit.jsonl", "model.sig"):
        (folder / name).write_bytes(b"of this model")
    return folder


@pytest.fixture
def there(model: Path, tmp_path: Path) -> Path:
    """The same one on a claim."""
    (tmp_path / "mount").mkdir()
    again(model, tmp_path)
    return tmp_path / "mount/team/noise"


def again(model: Path, tmp_path: Path) -> Sent:
    with claim(tmp_path / "mount") as depot:
        return upload(pack(model), depot)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_key_that_was_wrapped_again_is_replaced_and_never_by_an_older_one(
    model: Path, there: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(model, tmp_path / "old"))
    edit(model / KEY, "vault:v1:", "vault:v10:")
    assert again(model, tmp_path).files == 1
    assert contents(there) == contents(model)
    edit(old / KEY, "vault:v1:", "vault:v9:")
    with pytest.raises(InvalidInput, match="version 9' is older than that at"):
        again(old, tmp_path)
    assert contents(there) == contents(model)


@pytest.mark.parametrize(
    "name", ["policy.json", "report.json", "report.html", "audit.jsonl", "model.sig"]
)
def test_no_other_file_of_a_model_is_replaced(
    model: Path, there: Path, tmp_path: Path, name: str
) -> None:
    before = contents(there)
    (model / name).write_bytes(b"another model" if name != "policy.json" else b"{}")
    with pytest.raises(OutputExists, match=f"{name} at pvc://claim/team/noise is not the one"):
        again(model, tmp_path)
    assert contents(there) == before


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda key: edit(key, '"jobUid": "uid-1"', '"jobUid": "uid-2"'), OutputExists),
        (lambda key: key.write_bytes(b"{}"), ManifestInvalid),
    ],
    ids=["of another job", "no key"],
)
def test_what_does_not_open_the_model_is_not_put_in_its_keys_place(
    model: Path,
    there: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    error: type[SecuretrainError],
) -> None:
    before = contents(there)
    change(model / KEY)
    with pytest.raises(error):
        again(model, tmp_path)
    assert contents(there) == before


def test_what_is_damaged_or_missing_there_is_mended(
    model: Path, there: Path, tmp_path: Path
) -> None:
    (there / WEIGHTS).write_bytes(b"x" * 100)
    (there / KEY).write_bytes(b"damaged")
    (there / "model.sig").unlink()
    assert again(model, tmp_path).files == 3
    assert contents(there) == contents(model)
