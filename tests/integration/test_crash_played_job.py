"""A job with played pods runs from apply to signed model, with the real operator process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from support import stage
from support.stage import Stage


@pytest.fixture
def played(control_plane: ControlPlane, openbao: OpenBao, tmp_path: Path) -> Iterator[Stage]:
    with (
        stage.opened(control_plane, openbao, tmp_path, "team-played", guards=True) as opened,
        opened.operator.running(),
    ):
        opened.operator.wait_ready()
        yield opened


@pytest.mark.timeout(120)
def test_under_all_guards_a_played_job_is_trained_certified_and_signed(played: Stage) -> None:
    played.apply("played")
    played.until(lambda: played.ended("played"), "the job ends")
    assert played.phase("played") == "Succeeded"
    assert [pod.exit_code for pod in played.player.of("played")] == [0, 0]
