"""Is a pod cut off from the network but for what its job needs. Pure.

NetworkPolicies add up: one more that selects the pod can open what ours closes. So all that select
it are evaluated, by its live labels: ours must be there as they were built, and no other may open
anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from securetrain_operator.ports import Object


def intact(labels: Mapping[str, str], policies: Sequence[Object], ours: Object) -> bool:
    """Whether a policy of ours selects the pod and says exactly what it was built to say.

    Args:
        labels: the pod's live labels.
        policies: all NetworkPolicies of its namespace.
        ours: the policy as the operator builds it.
    """
    name = ours["metadata"]["name"]
    live = [policy for policy in policies if policy["metadata"]["name"] == name]
    return (
        len(live) == 1
        and _said(live[0].get("spec", {})) == _said(ours["spec"])
        and selects(live[0]["spec"].get("podSelector"), labels)
    )


def openings(
    labels: Mapping[str, str], policies: Sequence[Object], ours: Object
) -> tuple[str, ...]:
    """Names of the other policies that select the pod and open anything."""
    return tuple(
        str(policy["metadata"]["name"])
        for policy in policies
        if policy["metadata"]["name"] != ours["metadata"]["name"]
        and (policy.get("spec", {}).get("ingress") or policy.get("spec", {}).get("egress"))
        and selects(policy["spec"].get("podSelector"), labels)
    )


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches all."""
    selector = selector or {}
    return all(
        labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    ) and all(_matches(entry, labels) for entry in selector.get("matchExpressions") or ())


def _matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression.get("key", ""), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:  # an operator of the future: take it that the policy selects the pod
            return True


def _said(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's spec without empty fields, which the API server may leave out."""
    return {key: value for key, value in spec.items() if value}
