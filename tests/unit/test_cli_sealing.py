"""What `securetrain seal` shows before it writes, and what it leaves when it is killed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from securetrain.cli import main as cli
from securetrain.errors import ExitCode
from securetrain.sealed.dataset import load_dataset
from securetrain.sealed.strict_json import dump
from securetrain.sealed.writer import SealOptions, seal
from support.real_sources import KEY, MAKERS
from support.sealed_folders import POLICY, KeptKeys, digits_source
from support.sources import text_file

OPTIONS = {
    "npz": [],
    "images": [],
    "csv": ["--label", "kind", "--ignore", "id"],
    "parquet": ["--label", "kind", "--ignore", "id"],
    "tfrecord": ["--label", "class"],
    "tfrecord-table": ["--categorical", "zone"],
    "legacy": ["--legacy-key-file", "KEY"],
}
ROOT = Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("kind", MAKERS)
def test_a_dry_run_shows_everything_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    source = MAKERS[kind](tmp_path)
    key = tmp_path / "KEY"
    key.write_bytes(KEY)
    options = [str(key) if option == "KEY" else option for option in OPTIONS[kind]]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, "seal", source, "--dry-run", *options)
    assert code == 0, err
    for text in ("feature", "class", "train", "duplicates across: 0", "nothing was written"):
        assert text in out
    code, out, _ = run(capsys, "seal", source, "--dry-run", "--output", "json", *options)
    value = json.loads(out)
    assert value["kind"] == {"tfrecord-table": "tfrecord", "legacy": "images"}.get(kind, kind)
    assert sum(value["splits"].values()) == sum(
        count for of in value["classes"].values() for count in of.values()
    )
    assert set(value["classes"]) == set(value["task"]["labels"])
    assert ("without authentication" in err) == (kind == "legacy")
    assert sorted(tmp_path.rglob("*")) == before


def test_copies_and_contradictions_are_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = [f"{n % 40},g{n},{'ab'[n % 2 if n % 40 else 0]}" for n in range(80)]
    path = text_file(tmp_path / "a.csv", "\n".join(["x,g,y", *lines, "0,g80,b"]) + "\n")
    options = ["--label", "y", "--group-key", "g", "--dry-run", "--output", "json"]
    code, out, err = run(capsys, "seal", path, *options)
    assert code == 0
    value = json.loads(out)
    assert (value["duplicates"], value["contradictions"]) == (41, 1)
    assert value["duplicatesAcross"] > 0
    assert "lie in more than one split" in err
    assert "come with different labels" in err


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], ExitCode.USAGE, "DEST, --kek and --policy are needed"),
        (["--dry-run"], ExitCode.USAGE, "a table needs --label"),
        (["--dry-run", "--label", "z"], ExitCode.CONFIGURATION, "--label: 'z' is no column"),
        (["--dry-run", "--image-size", "big"], ExitCode.CONFIGURATION, "--image-size"),
        (["--dry-run", "--channels", "2"], ExitCode.CONFIGURATION, "--channels"),
        (["--dry-run", "--kind", "npz"], ExitCode.CONFIGURATION, "is not a .npz archive"),
        (["--dry-run", "--kind", "images"], ExitCode.CONFIGURATION, "is not a folder"),
        (["--dry-run", "--kind", "zip"], ExitCode.USAGE, "--kind"),
        (["--dry-run", "--legacy-key-file", "none"], ExitCode.CONFIGURATION, "cannot be read"),
    ],
)
def test_wrong_options_are_one_line_and_a_fix(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[str],
    code: ExitCode,
    says: str,
) -> None:
    path = text_file(tmp_path / "a.csv", "x,y\n1,a\n2,b\n")
    found, out, err = run(capsys, "seal", path, *options)
    assert (found, out) == (code, "")
    assert says in err
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "fix"]


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("images", "--group-key"),
        ("images", "--ignore"),
        ("npz", "--ignore"),
        ("npz", "--image-size"),
        ("csv", "--image-size"),
        ("tfrecord", "--numeric"),
        ("tfrecord", "--images-key"),
        ("legacy", "--group-key"),
    ],
)
def test_an_option_that_means_nothing_for_a_source_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str, option: str
) -> None:
    """A group that is passed over would lie in two splits; an identifier would stay."""
    (key := tmp_path / "KEY").write_bytes(KEY)
    more = [str(key) if word == "KEY" else word for word in OPTIONS[kind]]
    path = MAKERS[kind](tmp_path)
    value = "9x9" if option == "--image-size" else "id"
    code, _, err = run(capsys, "seal", path, *more, option, value, "--dry-run")
    assert code == ExitCode.USAGE, err
    assert f"{option} means nothing for" in err


SEALER = """
import sys, time
from pathlib import Path
from securetrain.sealed.strict_json import dump
from securetrain.sealed.writer import SealOptions, seal
from support.sealed_folders import POLICY, digits_source

class Slow:
    def wrap(self, dek, associated_data):
        print("wrapping", flush=True)
        time.sleep(600)

folder = Path(sys.argv[1])
seal(digits_source(folder), folder / "sealed", SealOptions(kek="k", policy=dump(POLICY)), Slow())
"""


def test_a_killed_seal_leaves_no_dataset_and_the_next_one_clears_up(tmp_path: Path) -> None:
    path = os.pathsep.join(str(ROOT / part) for part in ("tests", "."))
    child = subprocess.Popen(
        [sys.executable, "-c", SEALER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"wrapping\n"  # all shards are written, no key is
        child.kill()
    (left,) = tmp_path.glob(".sealed.*.partial")
    assert not (tmp_path / "sealed").exists()
    alive = tmp_path / ".sealed.00000000.partial"
    alive.mkdir()
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    seal(
        digits_source(tmp_path),
        tmp_path / "sealed",
        SealOptions(kek="k", policy=dump(POLICY)),
        KeptKeys(),
    )
    load_dataset(tmp_path / "sealed")
    assert not left.exists()
    assert alive.exists()
    os.close(lock)
