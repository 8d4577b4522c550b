"""Reads and writes of the output's folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from securetrain.errors import (
    BadConfiguration,
    IntegrityError,
    ModelCorrupt,
    OutputExists,
    ShardCorrupt,
)
from securetrain_trainer.store import Place, open_folder
from support.sealed_folders import sealed_model


def place(root: Path) -> Place:
    return Place.of(str(root / "models" / "m1"), "uid-1")


def fill(root: Path, text: str) -> None:
    where = place(root)
    where.start()
    with open_folder(f"{where.parent}/{where.staging}") as folder:
        folder.write("model.json", text.encode())


def test_a_model_appears_whole_under_its_final_name(tmp_path: Path) -> None:
    fill(tmp_path, "new")
    assert not (tmp_path / "models" / "m1").exists()
    place(tmp_path).publish(replace=False)
    assert (tmp_path / "models" / "m1" / "model.json").read_text() == "new"
    assert os.listdir(tmp_path / "models") == ["m1"]


def test_what_exists_is_kept_or_replaced_as_asked(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    old = (sealed_model(tmp_path / "models" / "m1") / "model.json").read_text()
    fill(tmp_path, "new")
    with pytest.raises(OutputExists, match="m1"):
        place(tmp_path).publish(replace=False)
    with pytest.raises(OutputExists):
        place(tmp_path).check_free(replace=False)
    place(tmp_path).check_free(replace=True)
    assert (tmp_path / "models" / "m1" / "model.json").read_text() == old
    (tmp_path / "models" / "m1.uid-1.replaced").mkdir()
    (tmp_path / "models" / "m1.uid-1.replaced" / "left").write_text("by a pod that died")
    place(tmp_path).publish(replace=True)
    assert (tmp_path / "models" / "m1" / "model.json").read_text() == "new"
    assert os.listdir(tmp_path / "models") == ["m1"]


def test_what_a_pod_that_died_left_of_a_replaced_model_is_tidied_up(tmp_path: Path) -> None:
    fill(tmp_path, "new")
    place(tmp_path).publish(replace=False)
    aside = tmp_path / "models" / "m1.uid-1.replaced"
    aside.mkdir()
    (aside / "model.json").write_text("old")
    with place(tmp_path).stored(replace=True) as (folder, published):
        assert published
        assert folder.read("model.json", 99) == b"new"
    place(tmp_path).tidy()
    assert os.listdir(tmp_path / "models") == ["m1"]


@pytest.mark.parametrize("what", ["data", "another model.json", "a file", "a link to a model"])
def test_only_a_models_folder_is_replaced(tmp_path: Path, what: str) -> None:
    fill(tmp_path, "new")
    final = tmp_path / "models" / "m1"
    if what == "a file":
        final.write_text("precious")
    elif what == "a link to a model":
        final.symlink_to(sealed_model(tmp_path / "elsewhere"))
    else:
        final.mkdir()
        name = "model.json" if what == "another model.json" else "data.csv"
        (final / name).write_text('{"format": "of somebody else"}')
    before = final.lstat().st_ino
    for attempt in (place(tmp_path).check_free, place(tmp_path).publish):
        with pytest.raises(OutputExists, match="not a model's folder"):
            attempt(replace=True)
    assert final.lstat().st_ino == before


def test_an_empty_folder_is_no_obstacle_but_a_link_is(tmp_path: Path) -> None:
    (tmp_path / "models" / "m1").mkdir(parents=True)
    place(tmp_path).check_free(replace=False)
    fill(tmp_path, "new")
    place(tmp_path).publish(replace=False)
    other = Place.of(str(tmp_path / "models" / "m2"), "uid-1")
    (tmp_path / "models" / "m2").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExists):
        other.check_free(replace=False)


def test_starting_removes_only_what_this_job_left(tmp_path: Path) -> None:
    fill(tmp_path, "first attempt")
    other = tmp_path / "models" / "m1.uid-2.partial"
    other.mkdir()
    place(tmp_path).start()
    assert os.listdir(tmp_path / "models" / "m1.uid-1.partial") == []
    assert other.is_dir()


def test_a_planted_link_never_leads_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (tmp_path / "models").symlink_to(outside)
    with pytest.raises(IntegrityError, match="link"):
        place(tmp_path).start()
    (tmp_path / "models").unlink()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m1.uid-1.partial").symlink_to(outside)
    place(tmp_path).start()  # removes the link, not what it points to
    assert (outside / "precious").exists()
    staged = tmp_path / "models" / "m1.uid-1.partial"
    (staged / "model.json").symlink_to(outside / "precious")
    (staged / ".model.json.tmp").symlink_to(outside / "precious")
    with open_folder(str(staged)) as folder:
        folder.write("model.json", b"new")
    assert (outside / "precious").read_text() == "x"
    assert (staged / "model.json").read_bytes() == b"new"


def test_reads_are_bounded_and_follow_no_link(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(bytes(11))
    (tmp_path / "link").symlink_to(tmp_path / "long")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with open_folder(str(tmp_path)) as folder:
        assert folder.read("long", 11) == bytes(11)
        for name, limit in (
            ("long", 10),
            ("link", 100),
            ("folder", 100),
            ("pipe", 100),
            ("no", 1),
        ):
            with pytest.raises(ModelCorrupt):
                folder.read(name, limit, ModelCorrupt)


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a//b", "/"])
def test_only_clean_absolute_paths_are_opened(path: str) -> None:
    with pytest.raises(IntegrityError, match="clean"), open_folder(path):
        pass


def test_a_claim_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    # Nobody, root included, can make a folder in /proc/self/fd's own file system.
    with pytest.raises((BadConfiguration, IntegrityError)):
        Place.of("/proc/securetrain/m1", "uid-1").start()
    assert list(tmp_path.iterdir()) == []


def test_training_that_fails_leaves_nothing_beside_the_final_folder(tmp_path: Path) -> None:
    new = Place.of(str(tmp_path / "model"), "uid-1")

    def train(*, well: bool) -> None:
        with new.started():
            (tmp_path / new.staging / "weights").write_bytes(b"x")
            if not well:
                raise ShardCorrupt("a shard was changed")

    with pytest.raises(ShardCorrupt):
        train(well=False)
    assert list(tmp_path.iterdir()) == []
    train(well=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["weights"]
