"""Every kind of life, with one death in each: at every step, on both sides of it, by both signals.

`make test` kills operators before every step of a whole life, several times in one job's life, and
at some steps of the others. Here each job has one death only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from support.lives import HOWS, Death
from support.tales import KINDS, Tale, Theatre, Told, is_optional, theatre

LANES = 6

pytestmark = pytest.mark.timeout(7200)


@pytest.fixture(scope="module")
def scene(
    control_plane: ControlPlane, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Theatre]:
    folder = tmp_path_factory.mktemp("crashes")
    with theatre(control_plane, openbao, folder, LANES) as opened:
        yield opened


@pytest.fixture(scope="module")
def undisturbed(scene: Theatre) -> Mapping[str, Told]:
    """One life of each kind in which nobody dies: what there is to die at."""
    return {told.tale.kind: told for told in scene.tell([Tale(k, f"{k}-0") for k in KINDS])}


@pytest.mark.parametrize("kind", KINDS)
def test_a_life_without_deaths_leaves_everything_once_and_whole(
    undisturbed: Mapping[str, Told], kind: str
) -> None:
    assert undisturbed[kind].faults == []


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_death_at_any_step_leaves_everything_once_and_whole(
    scene: Theatre, undisturbed: Mapping[str, Told], kind: str, how: str
) -> None:
    steps = [e for e in undisturbed[kind].effects if how != "after" or ": answer " not in e]
    tales = [
        Tale(kind, f"{kind}-{how}-{number}", [Death(step, how)])
        for number, step in enumerate(steps)
    ]
    told = scene.tell(tales)
    assert [str(one) for one in told if one.faults] == []
    missed = [str(d) for one in told for d in one.undied if not is_optional(d.effect)]
    assert missed == []
