"""Is it the pod that was launched: a live pod against the recorded template, deny by default.

Pure. Ownership is bookkeeping, content is proof: the pod must equal the template as the API server
returned it when the Job was made. What Kubernetes itself adds to an honest pod is listed here, and
nothing else passes. A mismatch is named by its path only, never by its value.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from securetrain_operator.core.record import ChildRecord
from securetrain_operator.ports import Object
from securetrain_operator.settings import Settings

JOB_NAME_LABELS: Final = ("batch.kubernetes.io/job-name", "job-name")
JOB_UID_LABELS: Final = ("batch.kubernetes.io/controller-uid", "controller-uid")
TOPOLOGY_PREFIX: Final = "topology.kubernetes.io/"
LIMIT_RANGER: Final = "kubernetes.io/limit-ranger"
ADMISSION_FIELDS: Final = (
    "nodeName",
    "priority",
    "priorityClassName",
    "preemptionPolicy",
    "overhead",
    "imagePullSecrets",
)
"""Fields that scheduler and admission plugins set where the template says nothing."""
DEFAULTED_RESOURCES: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
"""Resources that a LimitRange may give a default."""
LIVE_PHASES: Final = frozenset({"Pending", "Running"})
STATUS_LISTS: Final = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")


def attest(pod: Object, child: ChildRecord, settings: Settings) -> tuple[str, ...]:
    """Compare a live pod with the Job it claims to be of.

    Args:
        pod: the pod, read fresh from the API server.
        child: the Job as recorded at its creation.
        settings: names the annotations that the CNI adds.

    Returns:
        One path and word per mismatch; empty for the pod that was launched.
    """
    try:
        return tuple(_mismatches(pod, child, settings))
    except (AttributeError, KeyError, TypeError, ValueError):  # no pod has such a shape: deny
        return ("the pod is not shaped as a pod",)


def _mismatches(pod: Object, child: ChildRecord, settings: Settings) -> Iterator[str]:
    metadata, spec = pod["metadata"], pod["spec"]
    template = child.template.get("metadata") or {}
    annotations = template.get("annotations") or {}
    yield from _identity(metadata, child)
    yield from _labels(template.get("labels") or {}, metadata.get("labels") or {}, child)
    yield from _annotations(annotations, metadata.get("annotations") or {}, settings)
    yield from _spec(child.template["spec"], spec)
    yield from _status(pod["status"], [c.get("name") for c in spec["containers"]])


def _identity(metadata: Mapping[str, Any], child: ChildRecord) -> Iterator[str]:
    generation = metadata.get("generation")
    if type(generation) is not int or generation != 1:
        yield "metadata.generation: the pod was changed after it was made"
    if metadata.get("deletionTimestamp") is not None:
        yield "metadata.deletionTimestamp: the pod is terminating"
    if not str(metadata.get("name", "")).startswith(f"{child.name}-"):
        yield "metadata.name: not a name that the Job controller gives"
    owners = [
        (o.get("apiVersion"), o.get("kind"), o.get("name"), o.get("uid"), o.get("controller"))
        for o in metadata.get("ownerReferences") or ()
    ]
    if owners != [("batch/v1", "Job", child.name, child.uid, True)]:
        yield "metadata.ownerReferences: not exactly the launched Job"


def _labels(want: Mapping[str, Any], have: Mapping[str, Any], child: ChildRecord) -> Iterator[str]:
    expected = {
        **want,
        **dict.fromkeys(JOB_NAME_LABELS, child.name),
        **dict.fromkeys(JOB_UID_LABELS, child.uid),
    }
    added = {key for key in have if key.startswith(TOPOLOGY_PREFIX) and key not in expected}
    yield from _diff(expected, _without(have, added), "metadata.labels")


def _annotations(
    want: Mapping[str, Any], have: Mapping[str, Any], settings: Settings
) -> Iterator[str]:
    prefixes = settings.ignored_annotation_prefixes
    added = {
        key for key in have if key not in want and (key == LIMIT_RANGER or key.startswith(prefixes))
    }
    yield from _diff(dict(want), _without(have, added), "metadata.annotations")


def _spec(template: Mapping[str, Any], live: Mapping[str, Any]) -> Iterator[str]:
    want, have = copy.deepcopy(dict(template)), copy.deepcopy(dict(live))
    for field in ADMISSION_FIELDS:
        if field not in want:
            have.pop(field, None)
    yield from _placement(want, have)
    for kind in ("containers", "initContainers"):
        wanted, found = want.get(kind) or [], have.get(kind) or []
        if len(wanted) == len(found):
            for one, other in zip(wanted, found, strict=True):
                _drop_default_resources(one, other)
    yield from _diff(want, have, "spec")


def _placement(want: dict[str, Any], have: dict[str, Any]) -> Iterator[str]:
    """Tolerations and node selectors may be added, never taken away; both leave the comparison."""
    have_tolerations = have.pop("tolerations", None) or []
    if any(item not in have_tolerations for item in want.pop("tolerations", None) or []):
        yield "spec.tolerations: one is missing"
    have_selector = have.pop("nodeSelector", None) or {}
    wanted = want.pop("nodeSelector", None) or {}
    if any(have_selector.get(key) != value for key, value in wanted.items()):
        yield "spec.nodeSelector: a key is missing or differs"


def _drop_default_resources(want: Mapping[str, Any], have: dict[str, Any]) -> None:
    """Drop what a LimitRange added, and requests that Kubernetes copied from limits."""
    wanted, found = want.get("resources") or {}, have.get("resources") or {}
    limits = dict(found.get("limits") or {})
    for side in ("limits", "requests"):
        values = found.get(side)
        if not isinstance(values, dict):
            continue
        for name in set(values) - set(wanted.get(side) or {}):
            copied = side == "requests" and name in limits and values[name] == limits[name]
            if name in DEFAULTED_RESOURCES or copied:
                del values[name]
        if not values and side not in wanted:
            del found[side]


def _status(status: Mapping[str, Any], containers: Sequence[Any]) -> Iterator[str]:
    if status.get("phase") not in LIVE_PHASES:
        yield "status.phase: the pod has ended"
    for name in STATUS_LISTS:
        for entry in status.get(name) or ():
            if type(entry.get("restartCount")) is not int or entry["restartCount"] != 0:
                yield f"status.{name}: a container has restarted"
    if status.get("ephemeralContainerStatuses"):
        yield "status.ephemeralContainerStatuses: there is an ephemeral container"
    reported = [entry.get("name") for entry in status.get("containerStatuses") or ()]
    if sorted(map(str, reported)) != sorted(map(str, containers)):
        yield "status.containerStatuses: not exactly the containers of the pod"


def _without(values: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _diff(want: Any, have: Any, path: str) -> Iterator[str]:
    """Paths at which two JSON values differ; 1 and true are different."""
    if type(want) is not type(have):
        yield f"{path}: differs"
    elif isinstance(want, dict):
        for key in sorted(want.keys() | have.keys()):
            if key not in have:
                yield f"{path}.{key}: is missing"
            elif key not in want:
                yield f"{path}.{key}: was added"
            else:
                yield from _diff(want[key], have[key], f"{path}.{key}")
    elif isinstance(want, list):
        if len(want) != len(have):
            yield f"{path}: has {len(have)} entries, not {len(want)}"
        for index, (one, other) in enumerate(zip(want, have, strict=False)):
            yield from _diff(one, other, f"{path}[{index}]")
    elif want != have:
        yield f"{path}: differs"
