"""Is a child Job stored as it was asked for?

What the API server returns is recorded, and pods are attested against it. So it must be what was
asked for: a webhook that adds a container or a mount would otherwise have its addition attested.
Only what the API server itself fills in may be new; quantities of resources are rewritten by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

DEFAULTED: Final = frozenset(
    {"dnsPolicy", "schedulerName", "serviceAccount", "imagePullPolicy", "defaultMode"}
    | {"creationTimestamp", "controller-uid", "job-name"}
    | {"batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"}
)
REWRITTEN: Final = "resources"


def differences(asked: Any, stored: Any, path: str = "template") -> Iterator[str]:
    """Paths at which a stored template is not what was asked for.

    Args:
        asked: the template, or a part of it, as it was sent.
        stored: the same as the API server returned it.
        path: where this part stands.
    """
    if isinstance(asked, Mapping) and isinstance(stored, Mapping):
        yield from _in_mapping(asked, stored, path)
    elif _is_list(asked) and _is_list(stored) and len(asked) == len(stored):
        for index, (one, other) in enumerate(zip(asked, stored, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif asked != stored:
        yield path


def _in_mapping(asked: Mapping[str, Any], stored: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in sorted(asked.keys() | stored.keys()):
        here = f"{path}.{key}"
        if key == REWRITTEN and key in asked:
            continue
        if key not in asked:
            yield from () if key in DEFAULTED else (here,)
        elif key not in stored:
            yield from (here,) if asked[key] or asked[key] is False else ()
        else:
            yield from differences(asked[key], stored[key], here)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
