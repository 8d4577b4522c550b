"""Are the cluster's admission guards in place and enforcing? A check of listed objects, pure.

The chart installs them as ValidatingAdmissionPolicies. Keys are granted only while all are there:
without them a namespace user could, say, exec into a pod that holds keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from securetrain.api.names import GUARDS, NAMESPACE_LABEL, NAMESPACE_LABEL_VALUE

POLICIES: Final = "admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS: Final = "admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"

_SCOPES: Final[tuple[Mapping[str, Any], ...]] = (
    {},
    {"matchLabels": {NAMESPACE_LABEL: NAMESPACE_LABEL_VALUE}},
    {
        "matchExpressions": [
            {"key": NAMESPACE_LABEL, "operator": "In", "values": [NAMESPACE_LABEL_VALUE]}
        ]
    },
)
"""Namespace selectors that still cover every namespace in which jobs are accepted."""


def missing(
    policies: Iterable[Mapping[str, Any]], bindings: Iterable[Mapping[str, Any]]
) -> Sequence[str]:
    """Names of the guards that are absent, fail open, are narrowed, or lack a denying binding."""
    policy_of = {policy["metadata"]["name"]: policy for policy in policies}
    bindings = tuple(bindings)
    return [name for name in GUARDS if not _enforced(name, policy_of.get(name), bindings)]


def _enforced(
    name: str, policy: Mapping[str, Any] | None, bindings: Sequence[Mapping[str, Any]]
) -> bool:
    if policy is None or not _alive(policy):
        return False
    spec = policy.get("spec", {})
    sound = (
        spec.get("failurePolicy", "Fail") == "Fail"
        and not spec.get("paramKind")
        and bool(spec.get("validations"))
        and _covers_all(spec.get("matchConstraints"))
    )
    return sound and any(_denies(binding, name) for binding in bindings)


def _denies(binding: Mapping[str, Any], policy: str) -> bool:
    spec = binding.get("spec", {})
    match = spec.get("matchResources") or {}
    return (
        _alive(binding)
        and spec.get("policyName") == policy
        and "Deny" in spec.get("validationActions", ())
        and not spec.get("paramRef")
        and not match.get("resourceRules")
        and _covers_all(match)
    )


def _covers_all(match: Mapping[str, Any] | None) -> bool:
    match = match or {}
    return (
        (match.get("namespaceSelector") or {}) in _SCOPES
        and not match.get("objectSelector")
        and not match.get("excludeResourceRules")
    )


def _alive(item: Mapping[str, Any]) -> bool:
    return not item["metadata"].get("deletionTimestamp")
