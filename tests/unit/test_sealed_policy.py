"""The usage policy: one test per rule, each of which must be able to say no alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from securetrain.api.types import Gate
from securetrain.errors import ManifestInvalid
from securetrain.sealed.policy import PolicyRequest, check, parse_policy

IMAGE = "sha256:" + "a" * 64
POLICY: dict[str, Any] = {
    "format": "securetrain/policy/v1",
    "namespaces": ["team-a", "team-b"],
    "images": ["builtin", IMAGE],
    "outputKeks": ["team-a-models"],
    "gates": [{"metric": "accuracy", "min": "0.97"}, {"metric": "loss", "max": "0.1"}],
    "notAfter": "2027-01-01T00:00:00Z",
    "networkIsolation": True,
}
EXPIRES = 1_798_761_600.0
REQUEST = PolicyRequest(
    namespace="team-a",
    image="builtin@sha256:" + "f" * 64,
    builtin=True,
    output_kek="team-a-models",
    isolated=True,
    gates=(Gate(metric="accuracy", min=0.97), Gate(metric="loss", max=0.05)),
    now=EXPIRES - 1,
)


def parsed(**changes: Any) -> Any:
    return parse_policy(json.dumps({**POLICY, **changes}).encode())


def rules(request: PolicyRequest, **changes: Any) -> list[str]:
    return [denial.rule for denial in check(parsed(**changes), request)]


def test_all_that_is_agreed_is_allowed() -> None:
    assert rules(REQUEST) == []
    assert rules(replace(REQUEST, image=f"registry.example/x@{IMAGE}", builtin=False)) == []
    assert rules(replace(REQUEST, image=IMAGE, builtin=False)) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"namespace": "team-c"}, "namespaces"),
        ({"namespace": "team"}, "namespaces"),
        ({"image": "registry.example/x@sha256:" + "b" * 64, "builtin": False}, "images"),
        ({"image": "builtin@sha256:" + "f" * 64, "builtin": False}, "images"),
        ({"image": "builtin", "builtin": False}, "images"),
        ({"image": "x@builtin", "builtin": False}, "images"),
        ({"output_kek": "team-b-models"}, "outputKeks"),
        ({"now": EXPIRES}, "notAfter"),
        ({"isolated": False}, "networkIsolation"),
        ({"gates": ()}, "gates"),
    ],
)
def test_each_rule_denies_alone(change: dict[str, Any], rule: str) -> None:
    assert set(rules(replace(REQUEST, **change))) == {rule}


def test_builtin_must_be_listed_itself() -> None:
    assert rules(REQUEST, images=[IMAGE]) == ["images"]


@pytest.mark.parametrize(
    ("gates", "kept"),
    [
        ([("accuracy", 0.97, None)], True),
        ([("accuracy", 0.98, None)], True),
        ([("accuracy", 0.9699999, None)], False),
        ([("accuracy", None, 0.97)], False),
        ([("balancedAccuracy", 0.99, None)], False),
        ([("accuracy", 0.5, None), ("accuracy", 0.99, None)], True),
        ([("accuracy", float("-inf"), None)], False),
        ([("accuracy", float("inf"), None)], False),
        ([("accuracy", float("nan"), None)], False),
    ],
)
def test_gates_as_strict_or_stricter(gates: list[Any], kept: bool) -> None:
    request = replace(
        REQUEST, gates=tuple(Gate(metric=m, min=low, max=high) for m, low, high in gates)
    )
    required = [{"metric": "accuracy", "min": "0.97"}]
    assert rules(request, gates=required) == ([] if kept else ["gates"])


def test_a_gate_with_two_bounds_needs_both() -> None:
    required = [{"metric": "loss", "min": "0", "max": "0.1"}]
    upper = replace(REQUEST, gates=(Gate(metric="loss", max=0.1),))
    both = replace(REQUEST, gates=(Gate(metric="loss", min=0.0, max=0.1),))
    assert rules(upper, gates=required) == ["gates"]
    assert rules(both, gates=required) == []


def test_a_denial_says_what_and_what_would_be_allowed() -> None:
    (denial,) = check(parsed(), replace(REQUEST, namespace="team-c"))
    assert str(denial) == "namespaces: the job says team-c, the data owner allows team-a, team-b"


def test_isolation_is_the_default_and_gates_may_be_absent() -> None:
    short = {key: POLICY[key] for key in POLICY if key not in ("gates", "networkIsolation")}
    policy = parse_policy(json.dumps(short).encode())
    assert policy.network_isolation
    assert policy.gates == ()
    assert policy.expires == EXPIRES


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"notAfter": None}, "notAfter"),
        ({"notAfter": "2027-02-30T00:00:00Z"}, "document"),
        ({"notAfter": "2027-01-01T00:00:00+09:00"}, "notAfter"),
        ({"namespaces": []}, "namespaces"),
        ({"namespaces": ["*"]}, "namespaces"),
        ({"images": ["registry.example/x:latest"]}, "images"),
        ({"images": ["builtin\n"]}, "images"),
        ({"outputKeks": ["../x"]}, "outputKeks"),
        ({"outputKeks": "team-a-models"}, "outputKeks"),
        ({"networkIsolation": 0}, "networkIsolation"),
        ({"networkIsolation": "false"}, "networkIsolation"),
        ({"gates": [{"metric": "accuracy"}]}, "gates"),
        ({"gates": [{"metric": "accuracy", "min": 1}]}, "gates.0.min"),
        ({"gates": [{"metric": "accuracy", "min": "1e-9"}]}, "gates.0.min"),
        ({"gates": [{"metric": "accuracy", "min": "nan"}]}, "gates.0.min"),
        ({"gates": [{"metric": "accuracy", "min": "0.9", "max": "0.1"}]}, "above its max"),
        ({"maxEpsilon": "3"}, "maxEpsilon"),
        ({"network_isolation": False}, "network_isolation"),
        ({"format": "securetrain/policy/v2"}, "format"),
    ],
)
def test_strictness(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ManifestInvalid, match=field):
        parsed(**change)


def test_only_names_on_the_wire_count() -> None:
    text = json.dumps(POLICY).replace("networkIsolation", "network_isolation")
    with pytest.raises(ManifestInvalid, match=r"network_isolation: .*unknown field"):
        parse_policy(text.encode())


@pytest.mark.parametrize("missing", ["format", "namespaces", "images", "outputKeks", "notAfter"])
def test_mandatory_fields(missing: str) -> None:
    with pytest.raises(ManifestInvalid, match=missing):
        parse_policy(json.dumps({k: v for k, v in POLICY.items() if k != missing}).encode())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (json.dumps(POLICY)[:-1] + ', "notAfter": "2999-01-01T00:00:00Z"}', "twice"),
        (json.dumps(POLICY)[:-1] + ', "x": 0.97}', "write decimals as text"),
        (json.dumps(POLICY)[:-1] + ', "x": NaN}', "not an integer"),
        (json.dumps(POLICY)[:-1] + ', "x": ' + "9" * 5000 + "}", "digits"),
        ("[" * 100_000, "more than"),
        ("[" * 60_000, "not JSON"),
        ("\ufeff" + json.dumps(POLICY), "not JSON"),
        (" " * 70_000, "more than"),
        ("", "not JSON"),
        ("[]", "document"),
    ],
)
def test_strict_json(text: str, says: str) -> None:
    with pytest.raises(ManifestInvalid, match=says):
        parse_policy(text.encode())
