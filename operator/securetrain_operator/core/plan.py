"""What is to be done, as frozen data: `decide` makes it, the reconciler carries it out.

Every action may be repeated after a crash at any point of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from securetrain.api.names import Purpose
from securetrain_operator.core.diagnose import Diagnosis


@dataclass(frozen=True, slots=True)
class CreateRecord:
    """Accept the job: make its launch record."""


@dataclass(frozen=True, slots=True)
class MarkFailed:
    """The job has failed for good."""

    diagnosis: Diagnosis
    unless_results: Purpose | None = None
    """Not if this phase's results have arrived in the meantime."""


@dataclass(frozen=True, slots=True)
class EnsureAccount:
    """What all jobs of a namespace share: the service account, and the policy that closes pods."""


@dataclass(frozen=True, slots=True)
class EnsureNetworkPolicy:
    """The job's default-deny NetworkPolicy."""


@dataclass(frozen=True, slots=True)
class LaunchJob:
    """Make a child Job and record its UID and template; before that, no pod of it gets keys."""

    purpose: Purpose


@dataclass(frozen=True, slots=True)
class DeleteChild:
    """Delete one child Job by name and UID."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class ForgetChild:
    """Drop a child Job that no longer exists from the record, so that a new one is made."""

    purpose: Purpose
    uid: str


@dataclass(frozen=True, slots=True)
class Suspend:
    """Note that training is suspended; its Job is deleted already."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Note that training is wanted again, in a new attempt."""


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """Carry a changed activeDeadlineSeconds over to a running child Job."""

    child: DeleteChild
    seconds: int | None


@dataclass(frozen=True, slots=True)
class LookIntoGrant:
    """Find out what became of the keys of a pod that gave up after its grant."""

    pod_uid: str


@dataclass(frozen=True, slots=True)
class AdvancePhase:
    """Training is over; certify."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The job has succeeded."""


@dataclass(frozen=True, slots=True)
class CloseAudit:
    """Append the last audit record of a job that has ended."""


@dataclass(frozen=True, slots=True)
class SignHead:
    """Have Vault sign the final audit head."""


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete the SecureTrainingJob itself: its time to live is over."""


Action = (
    CreateRecord
    | MarkFailed
    | EnsureAccount
    | EnsureNetworkPolicy
    | LaunchJob
    | DeleteChild
    | ForgetChild
    | Suspend
    | Resume
    | SetDeadline
    | LookIntoGrant
    | AdvancePhase
    | Finish
    | CloseAudit
    | SignHead
    | DeleteJob
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in order, what the job waits for, and when to look again without being called."""

    actions: tuple[Action, ...] = ()
    waiting: Diagnosis | None = None
    again_after: float | None = None
    """Seconds; None: only when something happens."""
