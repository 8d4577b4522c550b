"""Pods that pass for a job's real pod but for one thing, and what the gateway says to them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support.api import Answer, Object
from support.gateway_stage import GatewayStage

Change = Callable[[Object], Any]
PATHS = ("/v1/grants", "/v1/progress", "/v1/results")
EVIL = "evil.example.org/x@sha256:" + "e" * 64

numbers = itertools.count(2)


def container(pod: Object) -> Any:
    """The trainer's container."""
    return pod["spec"]["containers"][0]


def volume(pod: Object, name: str) -> Any:
    """A volume by name."""
    return next(entry for entry in pod["spec"]["volumes"] if entry["name"] == name)


def mount(pod: Object, name: str) -> Any:
    """A volume's mount."""
    return next(entry for entry in container(pod)["volumeMounts"] if entry["name"] == name)


def address() -> str:
    """An address of this machine that nobody has called from: rate limits are per address."""
    number = next(numbers)
    return f"127.1.{number // 250}.{number % 250 + 2}"


def imitation(pod: Object, change: Change | None = None) -> Object:
    """A pod to create: all of the real one, labels and owner forged, but for name and `change`."""
    metadata = {
        key: copy.deepcopy(pod["metadata"][key])
        for key in ("namespace", "labels", "ownerReferences")
    }
    metadata["name"] = f"{pod['metadata']['generateName']}{next(numbers):05d}"
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": copy.deepcopy(pod["spec"]),
    }
    if change is not None:
        change(body)
    return body


@contextmanager
def imitating(stage: GatewayStage, pod: Object, change: Change | None = None) -> Iterator[Object]:
    """An imitation that runs, with an address of its own; gone afterwards."""
    made = stage.admin.create(imitation(pod, change)).expect()
    try:
        yield stage.started(made, address())
    finally:
        stage.remove(made)


def call(
    stage: GatewayStage, caller: Object, body: Any, token: str = "", path: str = "/v1/grants"
) -> Answer:
    """A pod's call, from its own address."""
    source = caller["status"]["podIP"]
    return stage.ask(token or stage.token(caller), body, path=path, source=source)


def refusal(stage: GatewayStage, answer: Answer) -> tuple[int, str, str]:
    """Status and reason of a refusal, and what the operator's people are told of it."""
    assert not {"keys", "wrappedModelKey", "bundle"} & answer.body.keys()
    told = stage.operator.refusals[-1]
    assert told["reason"] == answer.body["reason"]
    assert told["message"] not in str(answer.body)
    return answer.status, str(answer.body["reason"]), told["message"]
