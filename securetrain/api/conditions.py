"""Status conditions that kstatus, Argo CD and Flux read, so that health is right without a plugin.

`conditions_for` is pure: the same phase and facts give the same conditions, and only the
transition times depend on what was written before. Usage in the operator::

    conditions = conditions_for(
        phase="Training",
        reason="Training",
        message="Epoch 3 of 5.",
        facts={"Accepted": Fact(True, "SpecAccepted"), "KeysGranted": Fact(True, "KeysGranted")},
        previous=read_conditions(job.get("status")),
        generation=job["metadata"]["generation"],
        now=clock.rfc3339(),
    )

==========  =====  ===========  =======  ==============  ===========
phase       Ready  Reconciling  Stalled  besides         kstatus
==========  =====  ===========  =======  ==============  ===========
Pending     False  True         –        –               InProgress
Training    False  True         –        –               InProgress
Certifying  False  True         –        –               InProgress
Succeeded   True   –            –        Complete=True   Current
Failed      False  –            True     Failed=True     Failed
Suspended   –      –            –        Suspended=True  Current
==========  =====  ===========  =======  ==============  ===========
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import ValidationError

from securetrain.api.status import Condition
from securetrain.api.types import Phase

FactType = Literal["Accepted", "KeysGranted", "Trained", "Certified", "Signed"]
FACT_TYPES: Final[tuple[FactType, ...]] = (
    "Accepted",
    "KeysGranted",
    "Trained",
    "Certified",
    "Signed",
)
MAX_MESSAGE: Final = 1024

_HEALTH: Final[Mapping[Phase, tuple[tuple[str, bool], ...]]] = {
    "Pending": (("Ready", False), ("Reconciling", True)),
    "Training": (("Ready", False), ("Reconciling", True)),
    "Certifying": (("Ready", False), ("Reconciling", True)),
    "Succeeded": (("Ready", True), ("Complete", True)),
    "Failed": (("Ready", False), ("Stalled", True), ("Failed", True)),
    "Suspended": (("Suspended", True),),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known about one step of a job; a step of which nothing is known has no fact.

    Attributes:
        holds: True if the step is done, False if it failed or is not done yet.
        reason: CamelCase, at most 64 characters.
        message: one sentence for people; may be empty.
    """

    holds: bool
    reason: str
    message: str = ""


def conditions_for(
    phase: Phase,
    reason: str,
    message: str,
    facts: Mapping[FactType, Fact],
    previous: Iterable[Condition],
    generation: int,
    now: str,
) -> tuple[Condition, ...]:
    """All conditions of a job, complete: what is not returned is not to be kept.

    Args:
        phase: the job's phase; it alone decides the conditions about health.
        reason: CamelCase reason of the phase, at most 64 characters.
        message: what is going on and what to do next; cut to 1024 characters.
        facts: steps of the job that are known to be done or not done.
        previous: conditions as last written; a transition time is kept while the status stays.
        generation: `metadata.generation` that this status is about.
        now: RFC 3339 time of this change.

    Raises:
        pydantic.ValidationError: a reason is not CamelCase or too long.
    """
    written = {old.type: old for old in previous}
    health = [(kind, Fact(holds, reason, message)) for kind, holds in _HEALTH[phase]]
    steps = [(kind, facts[kind]) for kind in FACT_TYPES if kind in facts]
    return tuple(
        _condition(kind, fact, written.get(kind), generation, now) for kind, fact in health + steps
    )


def _condition(
    kind: str, fact: Fact, old: Condition | None, generation: int, now: str
) -> Condition:
    status: Literal["True", "False"] = "True" if fact.holds else "False"
    since = old.last_transition_time if old is not None and old.status == status else now
    return Condition(
        type=kind,
        status=status,
        reason=fact.reason,
        message=cut(fact.message),
        observed_generation=generation,
        last_transition_time=since,
    )


def cut(message: str) -> str:
    """A message that fits into a condition: at most 1024 characters, ending in … where cut."""
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


def read_conditions(status: Mapping[str, Any] | None) -> tuple[Condition, ...]:
    """Conditions of a stored status; malformed ones are left out: only their times are used."""
    found: Sequence[Any] = (status or {}).get("conditions") or ()
    return tuple(condition for raw in found if (condition := _parsed(raw)) is not None)


def _parsed(raw: Any) -> Condition | None:
    try:
        return Condition.model_validate(raw)
    except ValidationError:
        return None


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of one type, or None."""
    return next((condition for condition in conditions if condition.type == kind), None)
