"""What is fetched is one thing, though it be replaced meanwhile, and no manifest leads astray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from securetrain.errors import IntegrityError, ManifestInvalid, ModelCorrupt
from securetrain.storage.claim import ClaimDepot
from securetrain.storage.download import download
from securetrain.storage.parcel import pack
from support.claims import claim
from support.sealed_folders import sealed_model
from support.trainer_kit import seal_dataset

WEIGHTS = "weights.safetensors.sealed"
CHANGED = "changed while it was fetched"
Act = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Meddled(ClaimDepot):
    """A claim on which somebody does something before a file is opened for the nth time."""

    at: tuple[str, int] = ("", 0)
    act: Act = lambda: None
    opened: list[str] = field(default_factory=list)

    def open(
        self, name: str, limit: int, error: type[IntegrityError]
    ) -> AbstractContextManager[tuple[BinaryIO, int]]:
        self.opened.append(name)
        if self.at == (name, self.opened.count(name)):
            self.act()
        return ClaimDepot.open(self, name, limit, error)


@contextmanager
def meddled(mount: Path, at: tuple[str, int], act: Act) -> Iterator[Meddled]:
    with claim(mount) as depot:
        yield Meddled(depot.pipe, depot.where, at=at, act=act)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Where on a claim something lies."""
    (tmp_path / "mount/team").mkdir(parents=True)
    return tmp_path / "mount/team/noise"


@pytest.fixture
def model(there: Path) -> Path:
    """A model on a claim."""
    return sealed_model(there)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def other_model(tmp_path: Path) -> Path:
    """The model of another job, of the same sizes."""
    folder = sealed_model(tmp_path / "other")
    edit(folder / "model.json", "uid-1", "uid-2")
    edit(folder / "key.json", "uid-1", "uid-2")
    return folder


@pytest.mark.parametrize("at", [(WEIGHTS, 1), ("key.json", 1), ("policy.json", 1)])
def test_a_model_that_is_replaced_meanwhile_is_not_fetched(
    model: Path, tmp_path: Path, at: tuple[str, int]
) -> None:
    other = other_model(tmp_path)

    def act() -> None:
        model.rename(tmp_path / "aside")
        other.rename(model)

    with meddled(tmp_path / "mount", at, act) as depot:
        with pytest.raises(ManifestInvalid, match=f"model.json {CHANGED}"):
            download(depot, tmp_path / "back")
        assert not (tmp_path / "back").exists()
        assert download(depot, tmp_path / "back") == "model"
    assert json.loads((tmp_path / "back/model.json").read_text())["id"] == "uid-2"


def test_a_model_that_is_half_removed_meanwhile_is_not_broken_but_changed(
    model: Path, tmp_path: Path
) -> None:
    def act() -> None:
        (model / "model.json").unlink()
        (model / WEIGHTS).write_bytes(b"n" * 100)

    with (
        meddled(tmp_path / "mount", (WEIGHTS, 1), act) as depot,
        pytest.raises(ManifestInvalid, match=f"model.json {CHANGED}"),
    ):
        download(depot, tmp_path / "back")


def test_a_replacement_that_has_only_written_its_key_is_noticed(
    model: Path, tmp_path: Path
) -> None:
    edit(model / "key.json", "uid-1", "uid-2")
    with claim(tmp_path / "mount") as depot:
        with pytest.raises(ManifestInvalid, match=f"key.json {CHANGED}"):
            download(depot, tmp_path / "back")
        (model / WEIGHTS).write_bytes(b"n" * 100)
        with pytest.raises(ModelCorrupt, match="not the file that was sealed"):
            download(depot, tmp_path / "other")


@pytest.mark.parametrize(
    ("at", "name"), [(("policy.json", 3), "dataset.json"), (("policy.json", 5), "keys.json")]
)
def test_a_dataset_that_is_replaced_meanwhile_is_not_fetched(
    there: Path, tmp_path: Path, at: tuple[str, int], name: str
) -> None:
    seal_dataset(there)

    def act() -> None:
        with (there / name).open("ab") as stream:
            stream.write(b"\n")

    with (
        meddled(tmp_path / "mount", at, act) as depot,
        pytest.raises(ManifestInvalid, match=f"{name} {CHANGED}"),
    ):
        download(depot, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("path", ["a/b/c", "a/b", "key.json", "model.json", "x" * 200])
def test_weights_of_another_name_are_one_clear_error(
    model: Path, tmp_path: Path, path: str
) -> None:
    edit(model / "model.json", WEIGHTS, path)
    with claim(tmp_path / "mount") as depot, pytest.raises(ManifestInvalid, match=r"weights\.path"):
        download(depot, tmp_path / "back")
    with pytest.raises(ManifestInvalid, match=r"weights\.path"):
        pack(model)
