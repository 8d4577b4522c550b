"""Whatever is changed in a pod is caught, unless it is on the written list of additions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from securetrain.api.names import Purpose
from securetrain_operator.gateway.attest import attest
from support.gateway_pods import honest_pod
from support.gateway_world import World, settings

Path = tuple[str | int, ...]

CHILD = World().record.children[Purpose.TRAIN]
SETTINGS = settings()
POD = honest_pod(CHILD, "abcde", "pod")
FREE = (
    ("spec", "nodeName"),
    ("spec", "priority"),
    ("spec", "preemptionPolicy"),
    ("spec", "tolerations"),
)
"""What Kubernetes sets by itself; the template says nothing about it."""
MAY_BE_ADDED = {
    ("spec",): {
        "nodeName",
        "priority",
        "priorityClassName",
        "preemptionPolicy",
        "overhead",
        "imagePullSecrets",
        "nodeSelector",
        "tolerations",
    },
    ("metadata", "annotations"): {"kubernetes.io/limit-ranger"},
}

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = (
    "command",
    "args",
    "env",
    "envFrom",
    "lifecycle",
    "livenessProbe",
    "startupProbe",
    "volumeDevices",
    "stdin",
    "tty",
    "workingDir",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "hostUsers",
    "hostname",
    "subdomain",
    "dnsConfig",
    "runtimeClassName",
    "initContainers",
    "ephemeralContainers",
    "shareProcessNamespace",
    "resourceClaims",
    "resources",
    "restartPolicyRules",
    "subPath",
    "privileged",
    "procMount",
    "runAsUser",
    "configMap",
    "secret",
    "hostPath",
    "csi",
    "schedulingGates",
    "os",
    "setHostnameAsFQDN",
    "affinity",
)


def paths(value: Any, here: Path) -> Iterator[Path]:
    """All places below a value."""
    entries: Iterator[tuple[str | int, Any]] = iter(())
    if isinstance(value, dict):
        entries = iter(value.items())
    elif isinstance(value, list):
        entries = iter(enumerate(value))
    for key, inner in entries:
        yield (*here, key)
        yield from paths(inner, (*here, key))


def at(value: Any, path: Path) -> Any:
    """The value at a place."""
    for key in path:
        value = value[key]
    return value


ROOTS: tuple[Path, ...] = (("spec",), ("metadata", "labels"), ("metadata", "ownerReferences"))
PLACES = sorted(
    (
        place
        for root in ROOTS
        for place in paths(at(POD, root), root)
        if not any(place[: len(free)] == free for free in FREE)
        and "blockOwnerDeletion" not in place
    ),
    key=str,
)
DICTS = [place for place in (*ROOTS, *PLACES) if isinstance(at(POD, place), dict)]
LISTS = [place for place in PLACES if isinstance(at(POD, place), list)]


def caught(pod: dict[str, Any]) -> bool:
    return attest(pod, CHILD, SETTINGS) != ()


def test_the_unchanged_pod_passes() -> None:
    assert not caught(copy.deepcopy(POD))
    assert len(PLACES) > 60


@given(place=st.sampled_from(PLACES), value=values)
def test_a_replaced_value_is_caught(place: Path, value: Any) -> None:
    pod = copy.deepcopy(POD)
    old = at(pod, place)
    if type(old) is type(value) and old == value:
        return
    at(pod, place[:-1])[place[-1]] = value
    assert caught(pod)


@given(place=st.sampled_from(PLACES))
def test_a_removed_value_is_caught(place: Path) -> None:
    pod = copy.deepcopy(POD)
    del at(pod, place[:-1])[place[-1]]
    assert caught(pod)


@given(
    place=st.sampled_from(DICTS),
    name=st.sampled_from(FIELDS) | st.text(min_size=1, max_size=12),
    value=values,
)
def test_an_added_field_is_caught(place: Path, name: str, value: Any) -> None:
    pod = copy.deepcopy(POD)
    holder = at(pod, place)
    owner = place[:2] == ("metadata", "ownerReferences")
    if name in holder or name in MAY_BE_ADDED.get(place, ()) or owner:
        return
    if place[-1] in ("limits", "requests") and name in ("cpu", "memory", "ephemeral-storage"):
        return
    if place[-1:] == ("labels",) and name.startswith("topology.kubernetes.io/"):
        return
    holder[name] = value
    assert caught(pod)


@given(place=st.sampled_from(LISTS), value=values, front=st.booleans())
def test_an_added_entry_is_caught(place: Path, value: Any, front: bool) -> None:
    pod = copy.deepcopy(POD)
    entries = at(pod, place)
    entries.insert(0 if front else len(entries), value if value else {"name": "x"})
    assert caught(pod)


@given(name=st.text(min_size=1, max_size=20), value=st.text(max_size=8))
def test_an_added_annotation_is_caught(name: str, value: str) -> None:
    pod = copy.deepcopy(POD)
    pod["metadata"]["annotations"] = {name: value}
    assert caught(pod) or name == "kubernetes.io/limit-ranger"
