"""Every error that people or conditions see, and the one table of exit codes.

    SecuretrainError
    ├── UsageError              2   the command line is wrong
    ├── Refused                10   somebody entitled to it said no, for good
    │   ├── PolicyDenied            the data owner's usage policy does not allow it
    │   ├── KeyRevoked              the owner of the KEK revoked the wrapped key
    │   ├── NotOurPod               the caller is not the pod that was launched
    │   ├── AlreadyGranted          this pod has had its keys
    │   ├── StorageDenied           the object store answered 401 or 403
    │   ├── VaultDenied             Vault answered 403
    │   ├── VaultClockSkew          Vault's clock and that of the login token's issuer do not agree
    │   └── ClusterDenied           the API server refused the caller
    ├── TryAgain               11   a new attempt may succeed
    │   ├── VaultUnavailable        unreachable, answering 429/5xx, too slow
    │   ├── VaultSealed
    │   ├── GatewayUnavailable
    │   ├── GrantLost               a wrapping token that cannot be spent any more
    │   ├── ClusterUnavailable      the API server is away or overloaded
    │   ├── StorageUnavailable      the object store is away, too slow, or not who it should be
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
    │   ├── StorageFull             no room is left where something is to be written
    │   ├── StorageMisconfigured    no such bucket, no credentials, or the server redirects
    │   ├── JobNotFound
    │   ├── VaultMisconfigured
    │   └── VaultRedirects          Vault sends its callers to another server
    └── GatesMissed            14   the model was evaluated and is not good enough

An error's `reason` is CamelCase and is reused in conditions, Events, audit records and problem
documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, Final, Self


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


def printable(text: str) -> str:
    """Text with control characters escaped, line breaks too: what is quoted may be hostile."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class SecuretrainError(Exception):
    """Base of all errors that are shown to people.

    Args:
        message: one sentence that says what is wrong; never holds a key, a token or plaintext.
        fix: what to do next, one sentence; else the class's own.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG
    retryable: ClassVar[bool] = False
    usual_fix: ClassVar[str] = "run it again; if it stays, report it with this message"
    """What to do where nobody who raises it knows better."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        self.message = printable(message)
        self.fix = printable(fix) or self.usual_fix
        super().__init__(self.message)

    @property
    def reason(self) -> str:
        """CamelCase name for conditions and audit records."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.message.removesuffix('.')}. Fix: {self.fix}"


class UsageError(SecuretrainError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE
    usual_fix = "see securetrain COMMAND --help"


class Refused(SecuretrainError):
    """Somebody entitled to it said no, and will say no again."""

    exit_code = ExitCode.REFUSED
    usual_fix = "ask whoever refused it"


class PolicyDenied(Refused):
    """The data owner's usage policy does not allow it."""

    usual_fix = "change the job, or ask the data owner for another policy"


class KeyRevoked(Refused):
    """Vault does not open what this old version of a KEK wrapped: its owner revoked it."""

    usual_fix = "ask the data owner for the keys.json and policy.json that are valid now"


class NotOurPod(Refused):
    """The caller is not the pod that the operator launched."""

    usual_fix = "let the operator start the pod: only its own get keys"


class AlreadyGranted(Refused):
    """This pod has had its keys."""

    usual_fix = "start a new pod"


class StorageDenied(Refused):
    """The object store does not let the caller do it."""

    usual_fix = "check the credentials and what the bucket's policy allows them"


class VaultDenied(Refused):
    """Vault answered 403."""

    usual_fix = "check the login and its policies, or run 'securetrain vault setup'"


class VaultClockSkew(Refused):
    """By Vault's clock the login token has expired, or is not valid yet."""

    usual_fix = (
        "compare the clocks of Vault and of the cluster; if they agree, see that kubelet renews"
        " the token"
    )


class ClusterDenied(Refused):
    """The API server refused the caller."""

    usual_fix = "ask your platform admin for the rights"


class TryAgain(SecuretrainError):
    """A new attempt may succeed."""

    exit_code = ExitCode.TRY_AGAIN
    retryable = True
    usual_fix = "try again"


class VaultUnavailable(TryAgain):
    """Vault cannot be reached, is too slow, or answers 412, 429 or 5xx.

    Args:
        message: see SecuretrainError.
        fix: see SecuretrainError.
        in_doubt: True if Vault may have done what it was asked, though the answer was lost.
    """

    usual_fix = "check that Vault is up and can be reached; then try again"

    def __init__(self, message: str, *, fix: str = "", in_doubt: bool = False) -> None:
        super().__init__(message, fix=fix)
        self.in_doubt = in_doubt


class VaultSealed(TryAgain):
    """Vault is sealed."""

    usual_fix = "vault operator unseal"


class GatewayUnavailable(TryAgain):
    """The key gateway cannot be reached or asks to wait."""

    usual_fix = "look at the operator's log; then try again"


class GrantLost(TryAgain):
    """A wrapping token is spent, expired or was never answered."""

    usual_fix = "start a new pod"


class ClusterUnavailable(TryAgain):
    """The API server cannot be reached or is overloaded."""

    usual_fix = "check that the API server is up and can be reached; then try again"


class StorageUnavailable(TryAgain):
    """The object store cannot be reached, does not prove who it is, or answers 429 or 5xx."""

    usual_fix = "check that the object store is up and can be reached; then try again"


class GuardMissing(TryAgain):
    """An admission guard of the cluster is not in place."""

    usual_fix = "have a cluster admin install the chart with guards.enabled=true"


class IntegrityError(SecuretrainError):
    """Bytes are not what was sealed, signed or promised."""

    exit_code = ExitCode.INTEGRITY
    usual_fix = "restore the bytes from a copy that you trust"


class ShardCorrupt(IntegrityError):
    """A sealed file was changed, cut, moved, or is sealed under another key."""

    usual_fix = "restore the file from the data owner's copy"


class ManifestInvalid(IntegrityError):
    """A manifest, index, policy or key file does not hold what its format demands."""

    usual_fix = "restore the file from the data owner's copy, or seal the dataset again"


class WrongKey(IntegrityError):
    """A key check failed, or Vault could not authenticate a wrapped key."""

    usual_fix = "restore dataset.json, policy.json and keys.json from the data owner's copy"


class GrantTampered(IntegrityError):
    """A wrapping token is not the one that the gateway promised."""

    usual_fix = "find out what stands between pod, gateway and Vault; then start a new pod"


class ModelCorrupt(IntegrityError):
    """A stored model is not the one that was trained."""

    usual_fix = "find out who writes to the output volume, and run the job again under a new name"


class SignatureInvalid(IntegrityError):
    """A signature does not fit the files or the key."""

    usual_fix = "do not use the model; get it, and the signing key, from a source that you trust"


class AuditBroken(IntegrityError):
    """The chain of audit records does not hold."""

    usual_fix = "find out who changed the trail; compare it with the signed head and the sinks"


class BadConfiguration(SecuretrainError):
    """A setting, a spec or an environment is wrong."""

    exit_code = ExitCode.CONFIGURATION
    usual_fix = "correct the setting; 'securetrain doctor' says what is missing"


class InvalidInput(BadConfiguration):
    """One wrong input: names the field, the value and the fix."""

    def __init__(self, field: str, value: object, problem: str, *, fix: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "…'"
        super().__init__(f"{field}: {shown} {problem}.", fix=fix)
        self.field = field

    @classmethod
    def missing(cls, field: str, *, fix: str) -> Self:
        """A field that is not there, and so has no value to show."""
        error = cls(field, None, "", fix=fix)
        error.message = printable(f"{field} is required and missing.")
        error.args = (error.message,)
        return error


class OutputExists(BadConfiguration):
    """The output folder holds something already."""

    usual_fix = "choose another name, or set spec.output.ifExists to Replace"


class StorageFull(BadConfiguration):
    """No room is left where something is to be written."""

    usual_fix = "make room on the volume, or use a larger one, and run it again"


class StorageMisconfigured(BadConfiguration):
    """A bucket, its credentials or the connection to it is missing or wrong."""

    usual_fix = "correct the storage connection, its Secret, or the address"


class JobNotFound(BadConfiguration):
    """There is no job of that name."""

    usual_fix = "check its name and -n"


class VaultMisconfigured(BadConfiguration):
    """A mount, role, policy or key of Vault is missing or of the wrong kind."""

    usual_fix = "run 'securetrain vault setup'"


class VaultRedirects(BadConfiguration):
    """Vault sends its callers to another server, which could be anybody's."""

    usual_fix = "give the address of the active Vault, or of a load balancer that forwards to it"


class GatesMissed(SecuretrainError):
    """The model was evaluated and missed a gate."""

    exit_code = ExitCode.GATES_MISSED
    usual_fix = "read the report; train differently under a new name"


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
    "OutputKekUnusable": ExitCode.CONFIGURATION,
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
