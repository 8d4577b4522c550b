"""The whole operator process under the chart's RBAC and guards; real API server and OpenBao."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.kubectl import Kubectl
from localcluster.openbao import OpenBao
from securetrain.api import names
from securetrain.api.gateway import RunSpec
from support import operator_process, samples
from support.api import Api
from support.chart import OPERATOR_NAMESPACE, OPERATOR_USER
from support.installed import chart_installed, make_namespace
from support.operator_process import GATEWAY_NAME, TOKEN, OperatorProcess

TEAM = "team-app"
GRACE_SECONDS = 30
"""What Kubernetes gives a pod to end, unless it is told otherwise."""
Object = dict[str, Any]


@pytest.fixture(scope="module")
def installed(control_plane: ControlPlane, openbao: OpenBao) -> Iterator[None]:
    admin = Api(control_plane.kubeconfig)
    with chart_installed(admin):
        make_namespace(admin, TEAM)
        operator_process.set_up_vault(openbao, control_plane, TEAM)
        control_plane.kubectl.apply(*(samples.claim(name, TEAM) for name in ("datasets", "models")))
        yield


@pytest.fixture
def operator(
    installed: None, control_plane: ControlPlane, openbao: OpenBao, tmp_path: Path
) -> OperatorProcess:
    return operator_process.prepare(tmp_path, control_plane, openbao, TEAM)


def job(name: str) -> Object:
    return samples.training_job(
        name, TEAM, output={"uri": f"pvc://models/{name}", "kek": "app-models"}
    )


def eventually(check: Callable[[], Any], operator: OperatorProcess, seconds: float = 90.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until, operator.log
        time.sleep(0.2)
    return found


def get(kubectl: Kubectl, kind: str, name: str, namespace: str = TEAM) -> Object | None:
    text = kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
    return json.loads(text) if text else None


def conditions(item: Object) -> dict[str, tuple[str, str]]:
    found = item.get("status", {}).get("conditions", [])
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in found}


def launched(kubectl: Kubectl, name: str) -> Object | None:
    item = get(kubectl, "securetrainingjob", name)
    done = item and item.get("status", {}).get("jobs")
    return item if done else None


def test_a_job_is_launched_and_sigterm_ends_the_process_in_good_order(
    operator: OperatorProcess, kubectl: Kubectl, control_plane: ControlPlane
) -> None:
    before = control_plane.audit_log.stat().st_size
    with operator.running() as process:
        operator.wait_ready()
        assert operator.probe("/livez") == (200, {"failing": []})
        kubectl.apply(job("first"))
        item = eventually(lambda: launched(kubectl, "first"), operator)
        child = get(kubectl, "job", "stj-first-train")
        assert child is not None
        _check_status(item, child)
        _check_gateway(operator, child)
        _check_what_kopf_did(control_plane.audit_log, before, item)

        process.send_signal(signal.SIGTERM)
        assert process.wait(GRACE_SECONDS) == 0, operator.log
    _check_output(operator, item["metadata"]["uid"])


def _check_status(item: Object, child: Object) -> None:
    """By kstatus: in progress."""
    seen = conditions(item)
    assert seen["Ready"][0] == "False"
    assert seen["Reconciling"][0] == "True"
    assert "Stalled" not in seen
    assert item["status"]["observedGeneration"] == item["metadata"]["generation"]
    assert item["status"]["jobs"][0]["uid"] == child["metadata"]["uid"]
    assert child["metadata"]["ownerReferences"][0]["uid"] == item["metadata"]["uid"]


def _check_gateway(operator: OperatorProcess, child: Object) -> None:
    """The gateway serves under the certificate that the pod was told to trust."""
    (container,) = child["spec"]["template"]["spec"]["containers"]
    (variable,) = (v for v in container["env"] if v["name"] == names.RUN_SPEC_ENV)
    run = RunSpec.model_validate_json(variable["value"])
    context = ssl.create_default_context(cadata=run.gateway.ca)
    with (
        socket.create_connection(("127.0.0.1", operator.gateway_port)) as plain,
        context.wrap_socket(plain, server_hostname=GATEWAY_NAME) as secured,
    ):
        secured.sendall(
            b"POST /v1/grants HTTP/1.1\r\nHost: gateway\r\nContent-Length: 2\r\n"
            b"Connection: close\r\n\r\n{}"
        )
        answer = b"".join(iter(lambda: secured.recv(4096), b"")).decode()
    assert answer.startswith("HTTP/1.1 401 ")
    assert "application/problem+json" in answer


def _check_what_kopf_did(audit_log: Path, start: int, item: Object) -> None:
    """It watched, by label where it can, and left no mark on the object.

    The log up to `start` is of other tests' operators.
    """
    assert not item["metadata"].get("finalizers")
    assert not [key for key in item["metadata"].get("annotations", {}) if "kopf" in key]
    lines = audit_log.read_bytes()[start:].decode().splitlines()
    events = [json.loads(line) for line in lines if OPERATOR_USER in line]
    events = [event for event in events if event["user"]["username"] == OPERATOR_USER]
    watches = {
        event["objectRef"]["resource"]: event["requestURI"]
        for event in events
        if event["verb"] == "watch"
    }
    assert set(watches) == {"securetrainingjobs", "jobs", "pods"}
    assert "labelSelector" not in watches["securetrainingjobs"]
    for resource in ("jobs", "pods"):
        assert f"labelSelector={names.JOB_UID_LABEL}&" in unquote(watches[resource])
    refused = [e["requestURI"] for e in events if e.get("responseStatus", {}).get("code") == 403]
    assert refused == []
    patched = {e["objectRef"]["resource"] for e in events if e["verb"] == "patch"}
    assert patched <= {"securetrainingjobs", "events"}
    assert all(
        event["objectRef"].get("subresource") == "status"
        for event in events
        if event["verb"] == "patch" and event["objectRef"]["resource"] == "securetrainingjobs"
    )


def _check_output(operator: OperatorProcess, uid: str) -> None:
    """Audit records on standard output, JSON log lines on standard error, no token in either."""
    lines = [json.loads(line) for line in operator.output.splitlines()]
    first = next(line for line in lines if line.get("source", "").endswith(uid))
    assert first["data"]["seq"] == 1
    for line in operator.log.splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))
    for text in (operator.output, operator.log):
        assert not TOKEN.search(text)


def test_a_record_of_a_job_deleted_meanwhile_is_cleared_at_the_next_start(
    operator: OperatorProcess, kubectl: Kubectl
) -> None:
    with operator.running():
        operator.wait_ready()
        kubectl.apply(job("second"))
        uid = eventually(lambda: launched(kubectl, "second"), operator)["metadata"]["uid"]
    record = names.launch_record(uid)
    assert get(kubectl, "configmap", record, OPERATOR_NAMESPACE)
    kubectl("delete", "securetrainingjob", "second", "-n", TEAM)
    with operator.running():
        eventually(lambda: not get(kubectl, "configmap", record, OPERATOR_NAMESPACE), operator)


def test_while_vault_is_sealed_jobs_wait_and_the_gateway_is_not_ready(
    operator: OperatorProcess, kubectl: Kubectl, openbao: OpenBao
) -> None:
    openbao.seal()
    try:
        with operator.running():
            eventually(lambda: operator.probe("/livez")[0] == 200, operator)
            kubectl.apply(job("third"))
            waiting = eventually(
                lambda: (
                    (found := get(kubectl, "securetrainingjob", "third"))
                    and conditions(found).get("Ready") == ("False", "VaultSealed")
                ),
                operator,
            )
            assert waiting
            assert operator.probe("/readyz") == (503, {"failing": ["certificate"]})
            assert get(kubectl, "job", "stj-third-train") is None
            openbao.unseal()
            eventually(lambda: launched(kubectl, "third"), operator, 90)
            operator.wait_ready()
    finally:
        openbao.unseal()


def test_a_port_that_is_taken_ends_the_process(operator: OperatorProcess) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", operator.gateway_port))
        taken.listen()
        with operator.running() as process:
            assert process.wait(90) == 1
    assert "OSError" in operator.log


def test_wrong_settings_end_the_process_naming_the_field(operator: OperatorProcess) -> None:
    text = operator.settings_file.read_text()
    operator.settings_file.write_text(text.replace("resyncSeconds: 5", "resyncSeconds: often"))
    with operator.running() as process:
        assert process.wait(90) == 13
    assert "resyncSeconds" in operator.log
