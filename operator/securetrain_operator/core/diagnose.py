"""Why a pod does not run, and why a Job failed: from Kubernetes' statuses to a sentence and a fix.

Pure. A termination message comes out of a container that may run a user's code: it may choose among
our own reasons, as far as they fit its exit code; its text is shown as data, cut and on one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from securetrain import errors
from securetrain.api import names
from securetrain.api.names import CONTAINER
from securetrain.api.types import PodSpec
from securetrain.errors import ExitCode, SecuretrainError
from securetrain.storage.credentials import REQUIRED
from securetrain_operator.core import times

Object = Mapping[str, Any]

MAX_TEXT: Final = 300
PODS_MISSING_SECONDS: Final = 5.0
MOUNT_SECONDS: Final = 10.0
"""How long kubelet usually takes, at most, until a pod's volumes are there."""
SIGKILL_EXIT: Final = 137
SANDBOX_READY: Final = "PodReadyToStartContainers"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A reason for conditions, a message for people, and what to do next."""

    reason: str
    message: str
    fix: str = ""

    @property
    def text(self) -> str:
        """Message and fix in one line."""
        return f"{self.message.removesuffix('.')}. Fix: {self.fix}" if self.fix else self.message


def record_lost(uid: str) -> Diagnosis:
    """A job that was launched or has ended, of which no launch record is left."""
    name = names.launch_record(uid)
    fix = f"restore ConfigMap {name} in the operator's namespace, or make a job of a new name"
    return Diagnosis("LaunchRecordLost", f"launch record {name} is gone; nothing is launched.", fix)


def from_error(error: SecuretrainError) -> Diagnosis:
    """The diagnosis that an error of ours stands for."""
    return Diagnosis(error.reason, one_line(error.message), error.fix)


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """Foreign text on one line: nothing unprintable, cut to `limit` characters."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 8 * limit])
    line = " ".join(printable.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _error_classes(base: type[SecuretrainError]) -> Iterator[type[SecuretrainError]]:
    for error in base.__subclasses__():
        if error.__module__ == errors.__name__:
            yield error
            yield from _error_classes(error)


KNOWN_REASONS: Final = {
    error.__name__: error.exit_code for error in _error_classes(SecuretrainError)
}
"""Reasons that a termination message may give, and the exit code that each belongs to."""

_BY_EXIT_CODE: Final = {
    ExitCode.REFUSED: ("Refused", "the pod was refused for good"),
    ExitCode.TRY_AGAIN: ("TryAgain", "the pod gave up and asked for a new one"),
    ExitCode.INTEGRITY: ("IntegrityError", "the pod found bytes that are not what was promised"),
    ExitCode.CONFIGURATION: ("BadConfiguration", "the pod found a wrong setting"),
    ExitCode.GATES_MISSED: ("GatesMissed", "the model missed a gate"),
}
_NO_IMAGE: Final = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"}
    | {"ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"}
)
_NO_CONTAINER: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)

_ENDING: Final = Diagnosis("PodEnding", "the pod has done its work; its Job is being settled.")


def waiting(pods: Sequence[Object], *, suspended: bool, age: float) -> Diagnosis | None:
    """Why an active Job has no running pod; None if one runs.

    Args:
        pods: the Job's own pods, oldest first.
        suspended: whether the Job is suspended, as a queue does.
        age: seconds since the Job was made.
    """
    if suspended:
        return Diagnosis("Queued", "the Job is suspended by its queue and waits for admission.")
    alive = [pod for pod in pods if is_alive(pod)]
    if any(is_running(pod) for pod in alive):
        return None
    if alive:
        return _not_running(alive[-1])
    if any((pod.get("status") or {}).get("phase") == "Succeeded" for pod in pods):
        return _ENDING
    if pods:
        return _between(pods[-1])
    if age > PODS_MISSING_SECONDS:
        fix = (
            "see the Job's Events with kubectl describe: a quota, a policy, or a class in spec.pod"
            " that does not exist may refuse its pods"
        )
        return Diagnosis("PodsMissing", "the Job is made, but no pod of it exists.", fix)
    return Diagnosis("PodStarting", "the Job is made; its pod is on the way.")


def _between(last: Object) -> Diagnosis:
    """While the Job makes a new pod: why the last one gave up, if it said so."""
    told = _told(_terminated(last) or {}) if gave_up(last) else None
    return told or Diagnosis("PodStarting", "the last pod has failed; the Job makes a new one.")


def with_classes(waiting: Diagnosis | None, pod: PodSpec) -> Diagnosis | None:
    """Where no pod can be made, the classes that the job names are the first suspects."""
    classes = {
        "priorityClassName": pod.priority_class_name,
        "runtimeClassName": pod.runtime_class_name,
    }
    named = ", ".join(f"spec.pod.{field} {name}" for field, name in classes.items() if name)
    if waiting is None or waiting.reason != "PodsMissing" or not named:
        return waiting
    message = f"{waiting.message.removesuffix('.')}; the cluster may lack {named}."
    return Diagnosis(waiting.reason, message, waiting.fix)


def with_logins(
    waiting: Diagnosis | None, pods: Sequence[Object], secrets: str, now: float
) -> Diagnosis | None:
    """Where a pod's volumes are not mounted, a Secret that it needs is the first suspect.

    Args:
        waiting: what was found so far.
        pods: the Job's own pods, oldest first.
        secrets: names of the Secrets that the pod mounts; empty if there are none.
        now: seconds since the epoch.
    """
    if not secrets or waiting is None or waiting.reason != "PodStarting":
        return waiting
    alive = [pod for pod in pods if is_alive(pod)]
    if not alive or not _lacks_volumes(alive[-1], now):
        return waiting
    message = f"the pod waits for its volumes; the Secret {secrets} may be missing or incomplete."
    fix = (
        f"create it in the job's namespace with the keys {' and '.join(REQUIRED)};"
        " kubectl describe pod says what kubelet lacks"
    )
    return Diagnosis("VolumesNotMounted", message, fix)


def _lacks_volumes(pod: Object, now: float) -> bool:
    """True for a pod that has long had its node but, for want of a volume, no sandbox."""
    status = pod.get("status") or {}
    held = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    stuck = held.get("PodScheduled") == "True" and held.get(SANDBOX_READY) == "False"
    begun = status.get("startTime")
    return stuck and begun is not None and now - times.epoch(begun) > MOUNT_SECONDS


def is_alive(pod: Object) -> bool:
    """True unless the pod has ended."""
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def is_running(pod: Object) -> bool:
    """True while the pod's container runs."""
    return "running" in _container_state(pod)


def gave_up(pod: Object) -> bool:
    """True if the pod has ended and asks for a new one in its place."""
    return _exit_code(pod) == ExitCode.TRY_AGAIN


def failure(pods: Sequence[Object], job_reason: str) -> Diagnosis:
    """Why a Job failed: told by its pods where they still exist, else by the Job itself.

    Args:
        pods: the Job's own pods, oldest first.
        job_reason: reason of the Job's condition Failed.
    """
    if job_reason == "DeadlineExceeded":
        fix = "raise spec.activeDeadlineSeconds in a new job, or train less"
        return Diagnosis(
            "DeadlineExceeded", "spec.activeDeadlineSeconds: the Job ran longer than it may.", fix
        )
    ended = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Failed"]
    final = [pod for pod in ended if _exit_code(pod) in _BY_EXIT_CODE]
    deciding = [pod for pod in final if _exit_code(pod) != ExitCode.TRY_AGAIN]
    for candidates in (deciding, ended):
        if candidates:
            return _failed_pod(candidates[-1], len(ended))
    reason = job_reason if job_reason.isalnum() and job_reason[:1].isupper() else "JobFailed"
    return Diagnosis(reason[:64], "the Job failed and its pods are gone.", "see the audit trail")


def _not_running(pod: Object) -> Diagnosis:
    if _terminated(pod) is not None:
        return _ENDING
    state = _container_state(pod).get("waiting") or {}
    reason = str(state.get("reason") or "")
    said = one_line(str(state.get("message") or reason))
    if reason in _NO_IMAGE:
        fix = "check that the image exists and that spec.pod.imagePullSecrets can read it"
        return Diagnosis("ImagePullFailed", f"the image cannot be pulled ({reason}): {said}", fix)
    if reason in _NO_CONTAINER:
        fix = "see the pod's Events with kubectl describe pod"
        return Diagnosis("ContainerNotCreated", f"the container cannot be made: {said}", fix)
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _unscheduled(condition)
    return Diagnosis("PodStarting", "the pod is starting.")


def _unscheduled(condition: Object) -> Diagnosis:
    said = one_line(str(condition.get("message") or "no node fits"))
    if condition.get("reason") == "SchedulingGated":
        return Diagnosis("Queued", "the pod waits for its scheduling gates.")
    fix = "free capacity, or change spec.pod.resources, nodeSelector or tolerations in a new job"
    return Diagnosis("Unschedulable", f"spec.pod: no node takes the pod: {said}", fix)


def _failed_pod(pod: Object, attempts: int) -> Diagnosis:
    status = pod.get("status") or {}
    name = pod["metadata"]["name"]
    ended = _terminated(pod)
    if status.get("reason") == "Evicted":
        said = one_line(str(status.get("message") or ""))
        fix = "raise the requests in spec.pod.resources, or free the node"
        return Diagnosis("Evicted", f"pod {name} was evicted: {said}", fix)
    if ended is None:
        return Diagnosis(
            "PodFailed", f"pod {name} failed before its container ran.", "see its Events"
        )
    if ended.get("reason") == "OOMKilled":
        fix = "raise spec.pod.resources.limits.memory (spec.certification.resources for certify)"
        return Diagnosis("OOMKilled", f"pod {name} needed more memory than its limit.", fix)
    told = _told(ended)
    return told or _by_exit_code(name, int(ended.get("exitCode", 1)), attempts)


def _told(ended: Object) -> Diagnosis | None:
    """What the pod wrote, if it is one of our reasons and fits the exit code."""
    text = str(ended.get("message") or "")
    try:
        fields = json.loads(text[:4096])
        reason, message = fields["reason"], fields["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(reason, str) or not isinstance(message, str):
        return None
    fits = KNOWN_REASONS.get(reason) == ended.get("exitCode")
    return Diagnosis(reason, one_line(message)) if fits else None


def _by_exit_code(pod: str, code: int, attempts: int) -> Diagnosis:
    known = _BY_EXIT_CODE.get(code)  # type: ignore[call-overload]
    if known:
        return Diagnosis(
            known[0], f"{known[1]} (pod {pod}, exit code {code}).", "see the pod's log"
        )
    if code == SIGKILL_EXIT:
        fix = "check the memory limit and the node's health"
        return Diagnosis("Killed", f"pod {pod} was killed (exit code {code}).", fix)
    message = f"pod {pod} ended with exit code {code}; attempts: {attempts}."
    return Diagnosis("TrainerCrashed", message, "see the pod's log with kubectl logs")


def _exit_code(pod: Object) -> int | None:
    ended = _terminated(pod)
    return None if ended is None else ended.get("exitCode")


def _terminated(pod: Object) -> Mapping[str, Any] | None:
    return _container_state(pod).get("terminated")


def _container_state(pod: Object) -> Mapping[str, Any]:
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status.get("name") == CONTAINER:
            return status.get("state") or {}
    return {}
