"""Every error that people or conditions see, and the one table of exit codes.

    SecuretrainError
    ├── UsageError              2   the command line is wrong
    ├── Refused                10   somebody entitled to it said no, for good
    │   ├── PolicyDenied            the data owner's usage policy does not allow it
    │   ├── NotOurPod               the caller is not the pod that was launched
    │   ├── AlreadyGranted          this pod has had its keys
    │   ├── VaultDenied             Vault answered 403
    │   └── ClusterDenied           the API server refused the caller
    ├── TryAgain               11   a new attempt may succeed
    │   ├── VaultUnavailable        unreachable, answering 429/5xx, too slow
    │   ├── VaultSealed
    │   ├── GatewayUnavailable
    │   ├── GrantLost               a wrapping token that cannot be spent any more
    │   ├── ClusterUnavailable      the API server is away or overloaded
    │   └── GuardMissing            the cluster's admission guards are not in place
    ├── IntegrityError         12   bytes are not what was sealed, signed or promised
    │   ├── ShardCorrupt
    │   ├── ManifestInvalid
    │   ├── WrongKey                a key check failed, or Vault could not authenticate it
    │   ├── GrantTampered           a wrapping token is not what the gateway said
    │   ├── ModelCorrupt
    │   ├── SignatureInvalid
    │   └── AuditBroken
    ├── BadConfiguration       13   a setting, a spec or an environment is wrong
    │   ├── InvalidInput            names the field, the value and the fix
    │   ├── OutputExists
    │   ├── JobNotFound
    │   └── VaultMisconfigured
    └── GatesMissed            14   the model was evaluated and is not good enough

An error's `reason` is CamelCase and is reused in conditions, Events, audit records and problem
documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, Final


class ExitCode(IntEnum):
    """The one table of exit codes, for pods and the command line alike."""

    OK = 0
    BUG = 1
    USAGE = 2
    REFUSED = 10
    TRY_AGAIN = 11
    INTEGRITY = 12
    CONFIGURATION = 13
    GATES_MISSED = 14


class SecuretrainError(Exception):
    """Base of all errors that are shown to people.

    Args:
        message: one sentence that says what is wrong; never holds a key, a token or plaintext.
        fix: what to do next, one sentence, or empty.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    @property
    def reason(self) -> str:
        """CamelCase name for conditions and audit records."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.message.removesuffix('.')}. Fix: {self.fix}" if self.fix else self.message


class UsageError(SecuretrainError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class Refused(SecuretrainError):
    """Somebody entitled to it said no, and will say no again."""

    exit_code = ExitCode.REFUSED


class PolicyDenied(Refused):
    """The data owner's usage policy does not allow it."""


class NotOurPod(Refused):
    """The caller is not the pod that the operator launched."""


class AlreadyGranted(Refused):
    """This pod has had its keys."""


class VaultDenied(Refused):
    """Vault answered 403."""


class ClusterDenied(Refused):
    """The API server refused the caller."""


class TryAgain(SecuretrainError):
    """A new attempt may succeed."""

    exit_code = ExitCode.TRY_AGAIN
    retryable = True


class VaultUnavailable(TryAgain):
    """Vault cannot be reached, is too slow, or answers 412, 429 or 5xx.

    Args:
        message: see SecuretrainError.
        fix: see SecuretrainError.
        in_doubt: True if Vault may have done what it was asked, though the answer was lost.
    """

    def __init__(self, message: str, *, fix: str = "", in_doubt: bool = False) -> None:
        super().__init__(message, fix=fix)
        self.in_doubt = in_doubt


class VaultSealed(TryAgain):
    """Vault is sealed."""


class GatewayUnavailable(TryAgain):
    """The key gateway cannot be reached or asks to wait."""


class GrantLost(TryAgain):
    """A wrapping token is spent, expired or was never answered."""


class ClusterUnavailable(TryAgain):
    """The API server cannot be reached or is overloaded."""


class GuardMissing(TryAgain):
    """An admission guard of the cluster is not in place."""


class IntegrityError(SecuretrainError):
    """Bytes are not what was sealed, signed or promised."""

    exit_code = ExitCode.INTEGRITY


class ShardCorrupt(IntegrityError):
    """A sealed file was changed, cut, moved, or is sealed under another key."""


class ManifestInvalid(IntegrityError):
    """A manifest, index, policy or key file does not hold what its format demands."""


class WrongKey(IntegrityError):
    """A key check failed, or Vault could not authenticate a wrapped key."""


class GrantTampered(IntegrityError):
    """A wrapping token is not the one that the gateway promised."""


class ModelCorrupt(IntegrityError):
    """A stored model is not the one that was trained."""


class SignatureInvalid(IntegrityError):
    """A signature does not fit the files or the key."""


class AuditBroken(IntegrityError):
    """The chain of audit records does not hold."""


class BadConfiguration(SecuretrainError):
    """A setting, a spec or an environment is wrong."""

    exit_code = ExitCode.CONFIGURATION


class InvalidInput(BadConfiguration):
    """One wrong input: names the field, the value and the fix."""

    def __init__(self, field: str, value: object, problem: str, *, fix: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "…'"
        super().__init__(f"{field}: {shown} {problem}.", fix=fix)
        self.field = field


class OutputExists(BadConfiguration):
    """The output folder holds something already."""


class JobNotFound(BadConfiguration):
    """There is no job of that name."""


class VaultMisconfigured(BadConfiguration):
    """A mount, role, policy or key of Vault is missing or of the wrong kind."""


class GatesMissed(SecuretrainError):
    """The model was evaluated and missed a gate."""

    exit_code = ExitCode.GATES_MISSED


REASON_EXIT_CODES: Final[Mapping[str, ExitCode]] = {
    "DatasetChanged": ExitCode.INTEGRITY,
    "LaunchRecordLost": ExitCode.INTEGRITY,
    "GrantsExhausted": ExitCode.REFUSED,
    "ApiDenied": ExitCode.REFUSED,
    "AlreadyReported": ExitCode.REFUSED,
    "BadToken": ExitCode.REFUSED,
    "RecordFull": ExitCode.CONFIGURATION,
    "ApiRejected": ExitCode.CONFIGURATION,
    "LaunchAltered": ExitCode.CONFIGURATION,
    "SpecInvalid": ExitCode.CONFIGURATION,
    "SpecChanged": ExitCode.CONFIGURATION,
    "ImageNotAllowed": ExitCode.CONFIGURATION,
    "ClaimNotAllowed": ExitCode.CONFIGURATION,
    "DeadlineExceeded": ExitCode.CONFIGURATION,
    "OOMKilled": ExitCode.CONFIGURATION,
    "StartingDeadlineExceeded": ExitCode.TRY_AGAIN,
    "Evicted": ExitCode.TRY_AGAIN,
    "Killed": ExitCode.TRY_AGAIN,
    "PodFailed": ExitCode.TRY_AGAIN,
    "TrainerCrashed": ExitCode.BUG,
    "ResultsMissing": ExitCode.BUG,
    "SignatureMissing": ExitCode.BUG,
    "JobFailed": ExitCode.BUG,
    "BackoffLimitExceeded": ExitCode.BUG,
    "PodFailurePolicy": ExitCode.BUG,
}
"""Exit codes of the reasons of failed jobs that are no class here.

The operator's own errors and diagnoses, and what is left of a Job whose pods are gone.
"""


def exit_code_of(reason: str) -> ExitCode:
    """Exit code of a failure's reason; one that nobody knows counts as a bug."""
    kinds: list[type[SecuretrainError]] = [SecuretrainError]
    while kinds:
        kind = kinds.pop()
        if kind.__name__ == reason:
            return kind.exit_code
        kinds.extend(kind.__subclasses__())
    return REASON_EXIT_CODES.get(reason, ExitCode.BUG)
