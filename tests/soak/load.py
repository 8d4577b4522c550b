"""The jobs, how each must end, and what must hold of it then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from securetrain.api.names import Purpose
from securetrain.audit import chain
from soak.supervisor import say
from support import stage
from support.stage import Stage
from support.trails import Trails

DENIED = "denied"
STALLED_SECONDS = 600.0
"""No job has ended for so long: something is stuck."""


@dataclass
class Planned:
    """One job and its end."""

    name: str
    phase: str
    reason: str = ""
    """Of the failure in its launch record."""
    dataset: str = stage.DATASET
    accuracy: float = 0.98
    uid: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        return {"datasets": [{"name": "digits", "uri": f"pvc://datasets/{self.dataset}"}]}


def plan(count: int) -> list[Planned]:
    """Of ten jobs seven succeed, two miss a gate, and one is denied by the owner's policy."""
    made = []
    for number in range(count):
        name, kind = f"run-{number:03d}", number % 10
        if kind == 9:
            made.append(Planned(name, "Failed", "PolicyDenied", dataset=DENIED))
        elif kind in (3, 6):
            made.append(Planned(name, "Failed", "GatesMissed", accuracy=0.5))
        else:
            made.append(Planned(name, "Succeeded"))
    return made


def run(at: Stage, jobs: Sequence[Planned], parallel: int) -> list[str]:
    """Apply the jobs, some at a time, until all have ended; those that have not are wrong."""
    denied = at.player.volumes / at.namespace / "datasets" / DENIED
    if not denied.exists():
        stage.seal_dataset(at.openbao, denied, at.namespace, namespaces=["elsewhere"])
    left, ended = list(jobs), 0
    going: list[Planned] = []
    last = time.monotonic()
    while (left or going) and time.monotonic() < last + STALLED_SECONDS:
        while left and len(going) < parallel:
            job = left.pop(0)
            at.player.accuracy[job.name] = job.accuracy
            job.uid = at.apply(job.name, **job.spec)
            going.append(job)
        time.sleep(1.0)
        still = [job for job in going if not at.ended(job.name)]
        if len(still) < len(going):
            ended += len(going) - len(still)
            last = time.monotonic()
            say(f"{ended}/{len(jobs)} jobs have ended")
        going = still
    return [f"{job.name}: has not ended, and is {at.phase(job.name)}" for job in going]


def check(at: Stage, jobs: Sequence[Planned], deaths: int) -> list[str]:
    """What is wrong with jobs that have ended."""
    trails, wrong = Trails([at]), []
    for job in jobs:
        if not job.uid:
            continue
        found = trails.faults(at, job.name, job.uid, phase=job.phase, deaths=deaths)
        record = at.record(job.uid)
        failure = record.failure.reason if record and record.failure else ""
        if failure != job.reason:
            found.append(f"it failed for {failure!r}, not {job.reason!r}")
        trained = [p.name for p in at.player.of(job.name, Purpose.TRAIN) if "keys" in p.stages]
        if len(trained) != (0 if job.reason == "PolicyDenied" else 1):
            found.append(f"keys to train had {trained}")
        if found and record:
            kinds = [chain.parse_line(line).type for line in record.audit]
            found.append("its trail: " + " ".join(k.removeprefix(chain.TYPE_PREFIX) for k in kinds))
        wrong += [f"{job.name}: {text}" for text in found]
    return wrong


def remove(at: Stage, jobs: Sequence[Planned]) -> list[str]:
    """Delete jobs, half of them by their own time to live; their UIDs."""
    for number, job in enumerate(jobs):
        if number % 2:
            at.admin.delete(f"{at.jobs}/{job.name}")
        else:
            at.change(job.name, ttlSecondsAfterFinished=1)
    return [job.uid for job in jobs]
