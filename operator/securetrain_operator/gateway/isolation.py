"""Is a pod cut off from the network but for what its job needs. Pure.

NetworkPolicies add up: one more that selects the pod can open what ours closes. So all that select
it are evaluated, by its live labels: ours must be there, close both directions and open nothing
wide, and no other may open anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from securetrain_operator.ports import Object

BOTH: Final = frozenset({"Ingress", "Egress"})


def openings(labels: Mapping[str, str], policies: Sequence[Object], ours: str) -> tuple[str, ...]:
    """What keeps a pod from being isolated; empty if it is.

    Args:
        labels: the pod's live labels.
        policies: all NetworkPolicies of its namespace.
        ours: name of the job's own policy.
    """
    selecting = [p for p in policies if selects(p.get("spec", {}).get("podSelector"), labels)]
    own = [p for p in selecting if p["metadata"]["name"] == ours]
    return (
        *(() if own else (f"NetworkPolicy {ours} is missing or does not select the pod",)),
        *(opening for policy in own for opening in _own_openings(policy.get("spec", {}))),
        *(
            f"NetworkPolicy {policy['metadata']['name']} adds an opening"
            for policy in selecting
            if policy not in own and _opens(policy.get("spec", {}))
        ),
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


def _opens(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("ingress") or spec.get("egress"))


def _own_openings(spec: Mapping[str, Any]) -> Iterator[str]:
    if set(spec.get("policyTypes") or ()) != BOTH:
        yield "the job's NetworkPolicy does not close both directions"
    if spec.get("ingress"):
        yield "the job's NetworkPolicy lets connections in"
    for rule in spec.get("egress") or ():
        peers = rule.get("to") or ()
        if not peers or any(_is_everywhere(peer) for peer in peers):
            yield "the job's NetworkPolicy lets connections out to everywhere"


def _is_everywhere(peer: Mapping[str, Any]) -> bool:
    return not peer or str((peer.get("ipBlock") or {}).get("cidr", "")).endswith("/0")
