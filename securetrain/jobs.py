"""SecureTrainingJobs through the Kubernetes API, for programs and the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kubernetes import client
from urllib3.exceptions import HTTPError

from securetrain.api.names import AUDIT_KEY, GROUP, PLURAL, VERSION, audit_config_map
from securetrain.api.types import TERMINAL_PHASES, JobSpec
from securetrain.audit.chain import split_lines
from securetrain.errors import (
    BadConfiguration,
    ClusterDenied,
    ClusterUnavailable,
    ExitCode,
    InvalidInput,
    JobNotFound,
    exit_code_of,
)

POLL_SECONDS: Final = 1.0
TIMEOUT: Final = (5, 30)


@dataclass(frozen=True, slots=True)
class JobView:
    """What people want to know about a job, read from its status."""

    name: str
    namespace: str
    uid: str
    phase: str
    reason: str
    message: str
    percentage: int | None
    summary: str
    remaining_seconds: int | None
    metrics: Mapping[str, str]
    status: Mapping[str, Any]

    @property
    def terminal(self) -> bool:
        """True once the job has ended."""
        return self.phase in TERMINAL_PHASES

    @property
    def exit_code(self) -> ExitCode:
        """The exit code that stands for the job's outcome."""
        if self.phase != "Failed":
            return ExitCode.OK
        return exit_code_of(self.reason)


def view(job: Mapping[str, Any]) -> JobView:
    """The view of a SecureTrainingJob object."""
    status = job.get("status") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions", [])}
    shown: Mapping[str, str] = next(
        (conditions[kind] for kind in ("Failed", "Suspended", "Ready") if kind in conditions), {}
    )
    progress = status.get("progress") or {}
    model = status.get("model") or {}
    metrics = model.get("metrics") or progress.get("metrics") or []
    return JobView(
        name=job["metadata"]["name"],
        namespace=job["metadata"]["namespace"],
        uid=job["metadata"]["uid"],
        phase=status.get("phase") or "Pending",
        reason=shown.get("reason", ""),
        message=shown.get("message", ""),
        percentage=progress.get("progressPercentage"),
        summary=progress.get("summary", ""),
        remaining_seconds=progress.get("estimatedRemainingSeconds"),
        metrics={metric["name"]: metric["value"] for metric in metrics},
        status=status,
    )


def submit(
    api: client.ApiClient, namespace: str, manifest: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:
    """Create a job; returns it and whether it is new.

    A job of that name with the same run content is returned as it is.

    Raises:
        InvalidInput: the API server refused a field, or another run has that name.
        ClusterUnavailable, ClusterDenied: the API server could not or would not.
    """
    objects = client.CustomObjectsApi(api)
    body = {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
    name = body["metadata"]["name"]
    try:
        with _translated(f"job {namespace}/{name}"):
            created = objects.create_namespaced_custom_object(
                GROUP,
                VERSION,
                namespace,
                PLURAL,
                body,
                field_validation="Strict",
                _request_timeout=TIMEOUT,
            )
            return created, True
    except _Exists:
        existing = read(api, namespace, name)
        wanted = JobSpec.model_validate(body["spec"]).run_content()
        if JobSpec.model_validate(existing["spec"]).run_content() == wanted:
            return existing, False
        raise InvalidInput(
            "metadata.name",
            name,
            "is the name of another run",
            fix="one object is one run: choose a new name",
        ) from None


def read(api: client.ApiClient, namespace: str, name: str) -> dict[str, Any]:
    """A job as the API server has it; raises JobNotFound."""
    with _translated(f"job {namespace}/{name}"):
        job: dict[str, Any] = client.CustomObjectsApi(api).get_namespaced_custom_object(
            GROUP, VERSION, namespace, PLURAL, name, _request_timeout=TIMEOUT
        )
        return job


def audit_data(api: client.ApiClient, namespace: str, name: str) -> Mapping[str, str]:
    """Content of the ConfigMap that mirrors a job's audit trail; raises JobNotFound."""
    with _translated(f"the audit trail of job {namespace}/{name}"):
        mirror = client.CoreV1Api(api).read_namespaced_config_map(
            audit_config_map(name), namespace, _request_timeout=TIMEOUT
        )
        return dict(mirror.data or {})


def audit_lines(data: Mapping[str, str]) -> list[str]:
    """The lines of a mirrored audit trail."""
    return split_lines(data.get(AUDIT_KEY, ""))


def follow(
    api: client.ApiClient,
    namespace: str,
    name: str,
    *,
    timeout_seconds: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[JobView]:
    """Views of a job, about one a second, until it has ended.

    A short outage of the API server is waited out; a job that is deleted under way raises
    JobNotFound.

    Raises:
        ClusterUnavailable: the API server was away for a minute, or the time is over.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    away_since: float | None = None
    while True:
        try:
            seen = view(read(api, namespace, name))
            away_since = None
            yield seen
            if seen.terminal:
                return
        except ClusterUnavailable:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > 60:
                raise
        if deadline is not None and time.monotonic() > deadline:
            raise ClusterUnavailable(
                f"job {namespace}/{name} has not ended within {timeout_seconds:.0f} s",
                fix="the job goes on: run `securetrain watch` again",
            )
        sleep(POLL_SECONDS)


class _Exists(Exception):
    """409 on create."""


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the client's errors into ours; they never quote a request."""
    try:
        yield
    except (HTTPError, OSError):
        raise ClusterUnavailable(
            "the API server cannot be reached", fix="check --context and the network"
        ) from None
    except client.ApiException as error:
        raise _error_of(error, what) from None


def _error_of(error: client.ApiException, what: str) -> Exception:
    if error.status == 404:
        return JobNotFound(f"{what} does not exist", fix="check its name, -n and the CRD")
    if error.status == 409:
        return _Exists()
    if error.status in (401, 403):
        return ClusterDenied(f"you may not touch {what}", fix="ask for the role securetrain-edit")
    if error.status in (400, 422):
        said = f"the API server refused {what}: {_message(error)}"
        return BadConfiguration(said, fix="correct the field that it names")
    return ClusterUnavailable(f"the API server answered {error.status}", fix="try again")


def _message(error: client.ApiException) -> str:
    """The API server's own words; they name field, value and rule."""
    try:
        return str(json.loads(error.body)["message"])[:1000]
    except (ValueError, KeyError, TypeError):
        return f"status {error.status}"
