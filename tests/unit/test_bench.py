"""The benchmark's own parts, on tiny work: a figure is only worth something if they are right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import compare, encryption, machine, results, training
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
    assert [each.contest.name for each in found] == ["encrypt", "decrypt", "decrypt-bare"]
    assert all(each.median > 0 for each in found)


def test_training_is_measured_on_equal_batches(tmp_path: Path) -> None:
    contests = training.contests(tmp_path, 200, 100)
    found = compare.run(next(contests), 1)
    contests.close()
    assert found.contest.name == "pipeline"
    assert found.contest.amount > 100
    assert found.median > 0
