"""Child processes: started once, recognised by start time, never mistaken for a stranger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.errors import ClusterError
from localcluster.process import Process, start_time, wait_until


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    process = Process("sleeper", tmp_path, die_with_parent=True)
    process.start(["sleep", "60"])
    yield process
    process.stop()


def test_a_started_process_runs_until_it_is_stopped(sleeper: Process) -> None:
    assert sleeper.running
    sleeper.stop()
    assert not sleeper.running


def test_starting_twice_keeps_the_first_one(sleeper: Process) -> None:
    before = sleeper.pid
    sleeper.start(["sleep", "60"])
    assert sleeper.pid == before


def test_other_arguments_restart_it(sleeper: Process) -> None:
    before = sleeper.pid
    sleeper.start(["sleep", "61"])
    assert sleeper.running
    assert sleeper.pid != before


def test_another_object_finds_it_by_its_pid_file(sleeper: Process, tmp_path: Path) -> None:
    assert Process("sleeper", tmp_path).pid == sleeper.pid


def test_a_reused_pid_is_not_ours_and_is_not_killed(tmp_path: Path) -> None:
    (tmp_path / "stranger.pid").write_text(f"{os.getpid()} 1 0\n")
    stranger = Process("stranger", tmp_path)
    assert not stranger.running
    stranger.stop()
    assert start_time(os.getpid()) is not None


def test_a_process_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    process = Process("brief", tmp_path)
    go = tmp_path / "go"
    until = f"until test -e {go}; do sleep 0.05; done"
    process.start(["sh", "-c", f"{until}; echo the reason >&2; exit 3"])
    go.touch()
    with pytest.raises(ClusterError, match=r"brief stopped while waiting for it\. \| .*the reason"):
        wait_until(lambda: False, "it", seconds=60, processes=[process])
    process.stop()


def test_variables_of_the_shell_do_not_reach_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "left over")
    process = Process("env", tmp_path)
    process.start(["sh", "-c", "env; sleep 60"])
    wait_until(lambda: "PATH=" in process.log.read_text(), "the output", seconds=60)
    process.stop()
    assert "left over" not in process.log.read_text()
