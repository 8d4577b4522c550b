"""policy.json, and the judgement by it."""

from __future__ import annotations

from math import inf, nextafter

from fuzz.target import Target
from securetrain.api.types import Gate
from securetrain.cli.policies import describe_policy
from securetrain.sealed import strict_json
from securetrain.sealed.policy import (
    PolicyRequest,
    RequiredGate,
    UsagePolicy,
    check,
    fix_of,
    parse_policy,
)

END = 253_402_300_799.0
"""The last second that a date can name."""
STRANGER = PolicyRequest("nobody", "x", False, "none", False, (), END)
RULES = {field.alias or name for name, field in UsagePolicy.model_fields.items()}


def holds(policy: UsagePolicy) -> None:
    """It means the same when it is written anew, allows its own, and denies a stranger all."""
    assert parse_policy(strict_json.dump(policy)) == policy
    assert describe_policy(policy)
    denials = check(policy, STRANGER)
    assert {"namespaces", "images", "outputKeks", "notAfter"} <= {d.rule for d in denials} <= RULES
    assert all(str(denial).isprintable() for denial in denials)
    assert fix_of(denials)
    owner = PolicyRequest(
        policy.namespaces[0],
        f"x@{policy.images[0]}",
        True,
        policy.output_keks[0],
        True,
        tuple(bounds(required) for required in policy.gates),
        policy.expires - 1,
    )
    assert check(policy, owner) == ()


def bounds(required: RequiredGate) -> Gate:
    """A gate a little stricter than the policy demands: not every decimal is a double."""
    low = None if required.min is None else stricter(required.min, inf)
    high = None if required.max is None else stricter(required.max, -inf)
    return Gate.model_construct(metric=required.metric, min=low, max=high)


def stricter(bound: str, way: float) -> float:
    return nextafter(nextafter(float(bound), way), way)


TARGET = Target(parse_policy, names="policy.json", holds=holds, json=True)
