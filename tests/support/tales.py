"""Ways in which a job's life can go, played while its operator dies again and again."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api.names import SERVICE_ACCOUNT, Purpose, network_policy
from securetrain.audit import chain
from securetrain_operator.build.network import default_deny
from support import stage as stages
from support.lives import Death, Reincarnation, Womb, womb
from support.played_pod import PlayedPod
from support.stage import Stage
from support.trails import Trails

FORBIDDEN: Final = "forbidden"
OPTIONAL: Final = ("status ", "create event ", "merge events", "create configmaps", "replace conf")
"""Effects that only show something, and depend on how changes happen to be seen together."""
PATIENCE: Final = 300.0


@dataclass(frozen=True)
class Tale:
    """One job's life.

    Attributes:
        kind: which life, a key of `KINDS`.
        job: the job's name.
        deaths: where operators die in it.
    """

    kind: str
    job: str
    deaths: Sequence[Death] = ()


@dataclass(frozen=True)
class Told:
    """How it went: what is wrong, which effects there were, and where nobody died after all."""

    tale: Tale
    faults: Sequence[str]
    effects: Sequence[str]
    undied: Sequence[Death]

    def __str__(self) -> str:
        where = ", ".join(map(str, self.tale.deaths))
        return f"{self.tale.job} ({where}): {'; '.join(self.faults)}"


@dataclass
class Hold:
    """A hook of the player: pods stop at a stage until they are let go or deleted."""

    at: dict[tuple[str, Purpose, str], bool] = field(default_factory=dict)

    def __call__(self, pod: PlayedPod, stage: str) -> None:
        """Wait while this pod's stage is held."""
        while self.at.get((pod.job, pod.purpose, stage)) and not pod.stop.is_set():
            time.sleep(0.02)


class Theatre:
    """Several stages side by side: tales are told on whichever is free."""

    def __init__(self, lanes: Sequence[Stage], womb: Womb) -> None:
        self._free: queue.SimpleQueue[Stage] = queue.SimpleQueue()
        self.lanes, self._womb = tuple(lanes), womb
        self.holds = {lane.namespace: Hold() for lane in lanes}
        for lane in lanes:
            lane.player.hook = self.holds[lane.namespace]
            self._free.put(lane)

    def tell(self, tales: Sequence[Tale]) -> list[Told]:
        """Tell them all, then look at what they left."""
        with ThreadPoolExecutor(len(self.lanes)) as pool:
            played = list(pool.map(self._play, tales))
        trails = Trails([lane for lane, *_ in played])
        return [
            Told(
                tale,
                [*wrong, *(KINDS[tale.kind].faults(trails, lane, tale, uid) if not wrong else ())],
                effects,
                undied,
            )
            for tale, (lane, uid, wrong, effects, undied) in zip(tales, played, strict=True)
        ]

    def _play(self, tale: Tale) -> tuple[Stage, str, list[str], list[str], list[Death]]:
        lane, uid, wrong = self._free.get(), "", list[str]()
        try:
            _clear(lane)
            with Reincarnation(self._womb, lane.operator, tale.job, tale.deaths) as operator:
                try:
                    uid = KINDS[tale.kind].play(lane, self.holds[lane.namespace], tale.job)
                except AssertionError as error:
                    wrong.append(str(error))
                effects, undied = operator.effects.names, sorted(operator.undied)
        finally:
            self._free.put(lane)
        return lane, uid, wrong, effects, undied


def _clear(lane: Stage) -> None:
    """Take away what a namespace's first job makes, so that the next one has to make it too."""
    paths = (
        f"/api/v1/namespaces/{lane.namespace}/serviceaccounts/{SERVICE_ACCOUNT}",
        f"/apis/networking.k8s.io/v1/namespaces/{lane.namespace}/networkpolicies/"
        + default_deny(lane.namespace)["metadata"]["name"],
    )
    for path in paths:
        lane.admin.delete(path).expect(200, 404)


@dataclass(frozen=True)
class Kind:
    """How a kind of life is played, and what must hold in the end."""

    play: Callable[[Stage, Hold, str], str]
    faults: Callable[[Trails, Stage, Tale, str], list[str]]


def _to_the_end(lane: Stage, job: str) -> None:
    lane.until(lambda: lane.ended(job), f"{job} ends", PATIENCE)


def _succeed(lane: Stage, _hold: Hold, job: str) -> str:
    uid = lane.apply(job, backoffLimit=0)
    _to_the_end(lane, job)
    return uid


def _miss_gates(lane: Stage, _hold: Hold, job: str) -> str:
    lane.player.accuracy[job] = 0.5
    return _succeed(lane, _hold, job)


def _be_denied(lane: Stage, _hold: Hold, job: str) -> str:
    uid = lane.apply(job, datasets=[{"name": "digits", "uri": f"pvc://datasets/{FORBIDDEN}"}])
    _to_the_end(lane, job)
    return uid


def _be_suspended(lane: Stage, hold: Hold, job: str) -> str:
    held = (job, Purpose.TRAIN, "keys")
    hold.at[held] = True
    uid = lane.apply(job, backoffLimit=0)
    lane.until(lambda: _is_at(lane, job, "keys"), f"{job} has keys", PATIENCE)
    lane.change(job, suspend=True)
    lane.until(lambda: lane.phase(job) == "Suspended", f"{job} is suspended", PATIENCE)
    hold.at[held] = False
    lane.change(job, suspend=False)
    _to_the_end(lane, job)
    return uid


def _be_deleted(lane: Stage, hold: Hold, job: str) -> str:
    hold.at[job, Purpose.TRAIN, "keys"] = True
    uid = lane.apply(job)
    lane.until(lambda: _is_at(lane, job, "keys"), f"{job} has keys", PATIENCE)
    lane.admin.delete(f"{lane.jobs}/{job}").expect()
    lane.until(lambda: lane.record(uid) is None, f"the record of {job} goes", PATIENCE)
    lane.until(lambda: not _left(lane, job), f"the children of {job} go", PATIENCE)
    return uid


def _is_at(lane: Stage, job: str, stage: str) -> bool:
    return any(stage in pod.stages for pod in lane.player.of(job))


def _left(lane: Stage, job: str) -> bool:
    policies = f"/apis/networking.k8s.io/v1/namespaces/{lane.namespace}/networkpolicies"
    children = [lane.child(job, purpose) for purpose in Purpose]
    return any(children) or lane.admin.get(f"{policies}/{network_policy(job)}").ok


def _ended(phase: str) -> Callable[[Trails, Stage, Tale, str], list[str]]:
    def faults(trails: Trails, lane: Stage, tale: Tale, uid: str) -> list[str]:
        return trails.faults(lane, tale.job, uid, phase=phase, deaths=len(tale.deaths))

    return faults


def _vanished(_trails: Trails, lane: Stage, tale: Tale, uid: str) -> list[str]:
    """What was published of a deleted job is one chain that says how it ended."""
    lines = [line for line in lane.operator.output.splitlines() if uid in line]
    parsed = [chain.parse_line(line) for line in dict.fromkeys(lines)]
    kinds = [record.type.removeprefix(chain.TYPE_PREFIX) for record in parsed]
    wrong = [] if kinds[-1] == "job.deleted" else [f"it ended with {kinds[-1]}"]
    heads = {record.sha256 for record in parsed} | {parsed[0].prev}
    wrong += [f"{record.type} fits nowhere" for record in parsed if record.prev not in heads]
    wrong += ["the model is there"] if lane.model(tale.job).exists() else []
    return wrong


KINDS: Final[Mapping[str, Kind]] = {
    "succeeds": Kind(_succeed, _ended("Succeeded")),
    "misses": Kind(_miss_gates, _ended("Failed")),
    "denied": Kind(_be_denied, _ended("Failed")),
    "suspended": Kind(_be_suspended, _ended("Succeeded")),
    "deleted": Kind(_be_deleted, _vanished),
}


def is_optional(effect: str) -> bool:
    """True for an effect that need not happen in every life of its kind."""
    return effect.partition(": ")[2].startswith(OPTIONAL)


@contextmanager
def theatre(
    control_plane: ControlPlane, openbao: OpenBao, folder: Path, lanes: int
) -> Iterator[Theatre]:
    """Stages in namespaces `lane-0` and so on."""
    with ExitStack() as stack:
        mother = stack.enter_context(womb())  # first, for it takes a while to be ready
        opened: list[Stage] = []
        for number in range(lanes):
            own = folder / str(number)
            own.mkdir()
            namespace = f"lane-{number}"
            lane = stack.enter_context(
                stages.opened(
                    control_plane,
                    openbao,
                    own,
                    namespace,
                    install=not number,
                    home=f"{namespace}-records",
                )
            )
            sealed = lane.player.volumes / lane.namespace / "datasets" / FORBIDDEN
            stages.seal_dataset(openbao, sealed, "somewhere-else")
            opened.append(lane)
        yield Theatre(opened, mother)
