"""The benchmark's own parts, on tiny work: a figure is only worth something if they are right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import compare, datasets, encryption, machine, plot, reading, results
from bench.compare import Contest, Figure, Round


def ticking(seconds: list[float]) -> Iterator[float]:
    """A clock's readings, between each start and end of which so many seconds pass."""
    now = 0.0
    for each in seconds:
        yield now
        now += each
        yield now


def figure(*rounds: Round) -> Figure:
    return Figure(Contest("some", int, int, "a / b", 8.0, "MiB"), rounds)


def test_sides_take_turns_at_being_first_after_one_run_that_does_not_count() -> None:
    ran: list[str] = []
    contest = Contest(
        "some", lambda: ran.append("ours"), lambda: ran.append("theirs"), "a / b", 1, "MiB"
    )
    found = compare.run(contest, 2, ticking([1.0, 2.0, 3.0, 4.0]).__next__)
    assert ran == ["ours", "theirs", "ours", "theirs", "theirs", "ours"]
    assert found.rounds == (Round(ours=1.0, reference=2.0), Round(ours=4.0, reference=3.0))


def test_a_figure_is_the_median_of_the_rounds_ratios() -> None:
    found = figure(Round(1, 2), Round(1, 4), Round(2, 1))
    assert found.median == 2.0
    assert found.spread == (0.5, 4.0)
    assert found.speeds == (8.0, 4.0)


def test_results_hold_every_round_and_replace_those_before(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "results.json"
    results.write(path, {"old": True})
    shown = figure(Round(1, 2), Round(1, 4), Round(2, 1))
    results.write(path, results.document([shown], {"machine": machine.facts()}))
    kept = json.loads(path.read_text())
    assert [each["ratio"] for each in kept["figures"][0]["rounds"]] == [2.0, 4.0, 0.5]
    assert kept["figures"][0]["median"] == 2.0
    assert kept["machine"]["cpus"] >= 1
    packages = kept["machine"]["packages"]
    assert packages.keys() >= {"cryptography", "tink"}
    assert packages.keys() & {"tensorflow", "tensorflow-cpu"}
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]
    assert "some" in results.table([shown])


def test_results_that_cannot_be_written_leave_those_before(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path, {"old": True})
    with pytest.raises(TypeError):
        results.write(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_encryption_is_measured_on_sides_that_open_each_other() -> None:
    found = [compare.run(contest, 1) for contest in encryption.contests(3 << 20)]
    targets = {each.contest.name: each.contest.target for each in found}
    assert targets == {
        "encrypt": 1.3,
        "decrypt": 2.0,
        "decrypt-bare": 0.85,
        "decrypt-bare-stream": None,
    }
    assert all(each.median > 0 for each in found)


def test_raw_images_are_read_alike_sealed_in_plaintext_and_by_the_recipe(tmp_path: Path) -> None:
    key = bytes(range(32))
    with datasets.twins(tmp_path / "raw", datasets.raw_images(200), 860) as read:
        reading.check_same(read, reading.plain_raw)
        reading.check_same(read, reading.plain_by_our_parser)
        datasets.encrypted_one_by_one(read, key, tmp_path / "recipe")
        ours, theirs = Counter(), Counter()
        for images, labels in reading.sealed(read):
            ours.update(zip(map(bytes, np.asarray(images)), map(int, labels), strict=True))
        for images, labels in reading.recipe(tmp_path / "recipe", key):
            theirs.update(zip(map(bytes, np.asarray(images)), map(int, labels), strict=True))
        assert ours == theirs
        assert ours.total() == read.records > 100


def test_jpeg_images_are_read_alike_sealed_and_in_plaintext(tmp_path: Path) -> None:
    folder = datasets.jpeg_folder(tmp_path / "images", 60)
    with datasets.twins(tmp_path / "jpeg", folder, 19_500) as read:
        reading.check_same(read, reading.plain_jpeg)
        bytes_each = read.sealed._split.bytes / read.records
    assert 15_000 < bytes_each < 25_000


def test_batches_that_differ_are_no_contest(tmp_path: Path) -> None:
    def other(read: datasets.Twins) -> Any:
        return reading.plain_raw(read).map(lambda images, labels: (images, 9 - labels))

    with (
        datasets.twins(tmp_path / "raw", datasets.raw_images(100), 860) as read,
        pytest.raises(AssertionError, match="differ"),
    ):
        reading.check_same(read, other)


@pytest.mark.parametrize(("target", "passed"), [(None, True), (2.0, True), (2.1, False)])
def test_a_target_is_met_by_the_median(target: float | None, passed: bool) -> None:
    contest = Contest("some", int, int, "a / b", 8.0, "MiB", target)
    found = Figure(contest, (Round(1, 2), Round(1, 4), Round(2, 1)))
    assert found.passed is passed
    (entry,) = results.document([found], {})["figures"]
    assert (entry["target"], entry["passed"]) == (target, passed)
    assert ("MISSED" in results.table([found])) is not passed


def test_results_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    content = results.document([figure(Round(1, 2), Round(1, 4), Round(2, 1))], {})
    for name in ("one.svg", "two.svg"):
        plot.draw(content, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "some" in (tmp_path / "one.svg").read_text()
