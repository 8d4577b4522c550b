"""Errors that only the operator raises.

SecuretrainError
├── TryAgain
│   ├── ApiUnavailable      the API server is away, slow, or answers 429, 5xx or 409 to a read
│   ├── Conflict            somebody else wrote first; read again
│   ├── AlreadyExists       an object of that name is there
│   ├── RecordGone          a job has no launch record (any more)
│   ├── SinkUnavailable     an audit sink did not take a record
│   ├── NotReady            the cluster has not yet reported what the gateway must compare
│   ├── NotIsolated         a NetworkPolicy opens the pod, and the data owner demands isolation
│   └── TooManyRequests     a caller asks too often (429)
├── Refused
│   ├── BadToken            the bearer token is not one of ours, or not valid any more (401)
│   ├── ApiDenied           the API server refused the operator itself (403)
│   ├── AlreadyReported     this pod has reported something else, or something newer, before (409)
│   └── GrantsExhausted     a phase of a job has used up its grants
├── IntegrityError
│   └── DatasetChanged      manifest or policy are not those that the job is pinned to
└── BadConfiguration
    ├── ApiRejected         the API server calls an object malformed (400, 413, 422)
    ├── OutputKekUnusable   a job's output.kek is missing, not its namespace's, or no model KEK
    ├── LaunchAltered       a child Job was stored with another template than asked for
    └── RecordFull          a launch record has no room for what must be recorded
"""

from __future__ import annotations

from securetrain.errors import BadConfiguration, IntegrityError, Refused, TryAgain


class ApiUnavailable(TryAgain):
    """The API server is away, slow, or answers 429, 5xx or 409 to a read."""


class Conflict(TryAgain):
    """An object changed since it was read."""


class AlreadyExists(TryAgain):
    """An object of that name is there already."""


class RecordGone(TryAgain):
    """A job has no launch record, or none any more."""


class NotReady(TryAgain):
    """The cluster has not yet reported what the gateway must compare."""


class NotIsolated(TryAgain):
    """A NetworkPolicy opens the pod to the network, and the data owner demands isolation."""


class TooManyRequests(TryAgain):
    """A caller asks too often."""


class BadToken(Refused):
    """The bearer token is not for us, or not valid any more."""


class ApiDenied(Refused):
    """The API server refused the operator itself: its RBAC is incomplete."""


class ApiRejected(BadConfiguration):
    """The API server refused an object as malformed; sending it again will not help."""


class SinkUnavailable(TryAgain):
    """An audit sink did not take a record, so what it records may not happen."""


class AlreadyReported(Refused):
    """This pod has reported something else, or something newer, before."""


class GrantsExhausted(Refused):
    """A phase of a job has used up its grants."""


class DatasetChanged(IntegrityError):
    """The manifest or the policy is not the one that the job is pinned to."""


class RecordFull(BadConfiguration):
    """A launch record has no room for what must be recorded: the job can only end."""


class OutputKekUnusable(BadConfiguration):
    """A job's `output.kek` is missing, is not its namespace's, or is not made for models."""


class LaunchAltered(BadConfiguration):
    """Something in the cluster changes child Jobs as they are made; no pod of them gets keys."""
