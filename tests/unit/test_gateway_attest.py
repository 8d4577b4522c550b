"""Honest pods pass the comparison with their template; each known tampering is caught."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from securetrain.api.names import Purpose
from securetrain_operator.core.record import ChildRecord
from securetrain_operator.gateway.attest import attest
from securetrain_operator.ports import Object
from support.gateway_pods import honest_pod
from support.gateway_world import World, settings

Change = Callable[[Object], Any]


@pytest.fixture
def child() -> ChildRecord:
    return World().record.children[Purpose.TRAIN]


def spec(pod: Object) -> Any:
    return pod["spec"]


def container(pod: Object) -> Any:
    return pod["spec"]["containers"][0]


def meta(pod: Object) -> Any:
    return pod["metadata"]


def volume(pod: Object, name: str) -> Any:
    return next(v for v in pod["spec"]["volumes"] if v["name"] == name)


HONEST: dict[str, Change] = {
    "plain": lambda pod: None,
    "not yet reported as running": lambda pod: pod["status"].update(phase="Pending"),
    "limit range": lambda pod: (
        meta(pod).setdefault("annotations", {}).update({"kubernetes.io/limit-ranger": "set: cpu"}),
        container(pod)["resources"]["limits"].update(cpu="2", **{"ephemeral-storage": "1Gi"}),
        container(pod)["resources"]["requests"].update({"ephemeral-storage": "1Gi"}),
    ),
    "priority class": lambda pod: spec(pod).update(priority=1000, priorityClassName="default"),
    "runtime class": lambda pod: spec(pod).update(
        overhead={"podFixed": {"memory": "120Mi"}},
        nodeSelector={"kata": "true"},
        tolerations=[*spec(pod)["tolerations"], {"key": "kata", "operator": "Exists"}],
    ),
    "memory pressure toleration": lambda pod: spec(pod)["tolerations"].append(
        {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}
    ),
    "pull secrets": lambda pod: spec(pod).update(imagePullSecrets=[{"name": "regcred"}]),
    "topology labels": lambda pod: meta(pod)["labels"].update(
        {"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "b"}
    ),
    "CNI annotation": lambda pod: meta(pod).update(
        annotations={"cni.projectcalico.org/podIP": "10.0.0.7/32"}
    ),
}

TAMPERED: dict[str, Change] = {
    "image": lambda pod: container(pod).update(image="evil@sha256:" + "e" * 64),
    "command": lambda pod: container(pod).update(command=["sh"]),
    "args": lambda pod: container(pod).update(args=["-c", "x"]),
    "env added": lambda pod: container(pod)["env"].append({"name": "PYTHONPATH", "value": "/d"}),
    "env changed": lambda pod: container(pod)["env"][0].update(value="{}"),
    "envFrom": lambda pod: container(pod).update(envFrom=[{"configMapRef": {"name": "x"}}]),
    "init container": lambda pod: spec(pod).update(
        initContainers=[{"name": "i", "image": "x", "restartPolicy": "Always"}]
    ),
    "second container": lambda pod: spec(pod)["containers"].append({"name": "b", "image": "x"}),
    "ephemeral container": lambda pod: spec(pod).update(ephemeralContainers=[{"name": "e"}]),
    "host aliases": lambda pod: spec(pod).update(
        hostAliases=[{"ip": "192.0.2.1", "hostnames": ["vault"]}]
    ),
    "host network": lambda pod: spec(pod).update(hostNetwork=True),
    "host PID": lambda pod: spec(pod).update(hostPID=True),
    "DNS config": lambda pod: spec(pod).update(dnsConfig={"nameservers": ["192.0.2.1"]}),
    "DNS policy": lambda pod: spec(pod).update(dnsPolicy="None"),
    "shared processes": lambda pod: spec(pod).update(shareProcessNamespace=True),
    "lifecycle": lambda pod: container(pod).update(lifecycle={"postStart": {"exec": {}}}),
    "probe": lambda pod: container(pod).update(livenessProbe={"exec": {"command": ["x"]}}),
    "working directory": lambda pod: container(pod).update(workingDir="/dataset"),
    "runtime class": lambda pod: spec(pod).update(runtimeClassName="evil"),
    "scheduler": lambda pod: spec(pod).update(schedulerName="evil"),
    "service account": lambda pod: spec(pod).update(serviceAccountName="x"),
    "account token": lambda pod: spec(pod).update(automountServiceAccountToken=True),
    "claim swapped": lambda pod: volume(pod, "output")["persistentVolumeClaim"].update(
        claimName="evil"
    ),
    "dataset writable": lambda pod: volume(pod, "dataset")["persistentVolumeClaim"].pop("readOnly"),
    "volume added": lambda pod: spec(pod)["volumes"].append(
        {"name": "c", "configMap": {"name": "x"}}
    ),
    "subPath": lambda pod: container(pod)["volumeMounts"][1].update(subPath="other"),
    "subPathExpr": lambda pod: container(pod)["volumeMounts"][1].update(subPathExpr="x"),
    "mount propagation": lambda pod: container(pod)["volumeMounts"][1].update(
        mountPropagation="Bidirectional"
    ),
    "tty": lambda pod: container(pod).update(stdin=True, tty=True),
    "termination message": lambda pod: container(pod).update(
        terminationMessagePolicy="FallbackToLogsOnError"
    ),
    "host users": lambda pod: spec(pod).update(hostUsers=True),
    "privileged": lambda pod: container(pod)["securityContext"].update(privileged=True),
    "writable root": lambda pod: container(pod)["securityContext"].pop("readOnlyRootFilesystem"),
    "label gone": lambda pod: meta(pod)["labels"].pop("securetrain.dev/job"),
    "label added": lambda pod: meta(pod)["labels"].update(app="x"),
    "multus": lambda pod: meta(pod).update(annotations={"k8s.v1.cni.cncf.io/networks": "evil"}),
    "patched and patched back": lambda pod: meta(pod).update(generation=3),
    "no generation": lambda pod: meta(pod).pop("generation"),
    "generation true": lambda pod: meta(pod).update(generation=True),
    "terminating": lambda pod: meta(pod).update(deletionTimestamp="2027-01-15T08:00:00Z"),
    "name": lambda pod: meta(pod).update(name="other"),
    "no owner": lambda pod: meta(pod).pop("ownerReferences"),
    "owner not controller": lambda pod: meta(pod)["ownerReferences"][0].update(controller=False),
    "another Job": lambda pod: meta(pod)["ownerReferences"][0].update(uid="x"),
    "two owners": lambda pod: meta(pod)["ownerReferences"].append(
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}
    ),
    "memory": lambda pod: container(pod)["resources"]["limits"].update(memory="1Gi"),
    "more of an odd resource": lambda pod: container(pod)["resources"]["limits"].update(
        {"example.com/gpu": "1"}
    ),
    "resource claims": lambda pod: spec(pod).update(resourceClaims=[{"name": "x"}]),
    "restarted": lambda pod: pod["status"]["containerStatuses"][0].update(restartCount=1),
    "init restarted": lambda pod: pod["status"].update(
        initContainerStatuses=[{"name": "i", "restartCount": 1}]
    ),
    "ephemeral status": lambda pod: pod["status"].update(
        ephemeralContainerStatuses=[{"name": "e", "restartCount": 0}]
    ),
    "no restart count": lambda pod: pod["status"]["containerStatuses"][0].pop("restartCount"),
    "ended": lambda pod: pod["status"].update(phase="Succeeded"),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_pod_passes(child: ChildRecord, name: str) -> None:
    pod = honest_pod(child, "abcde", "pod")
    HONEST[name](pod)
    known = settings(ignored_annotation_prefixes=("cni.projectcalico.org/",))
    assert attest(pod, child, known) == ()


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_pod_is_caught(child: ChildRecord, name: str) -> None:
    pod = honest_pod(child, "abcde", "pod")
    TAMPERED[name](pod)
    assert attest(pod, child, settings()) != ()


def chosen(child: ChildRecord, **fields: Any) -> ChildRecord:
    template = copy.deepcopy(child.template)
    template["spec"].update(fields)
    return child.model_copy(update={"template": template})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nodeSelector", {"gpu": "true"}),
        ("tolerations", [{"key": "gpu", "operator": "Exists"}]),
        ("priorityClassName", "batch"),
        ("imagePullSecrets", [{"name": "regcred"}]),
    ],
)
def test_what_the_job_chose_can_be_added_to_but_not_taken_away(
    child: ChildRecord, field: str, value: Any
) -> None:
    child = chosen(child, **{field: value})
    pod = honest_pod(child, "abcde", "pod")
    assert attest(pod, child, settings()) == ()
    pod["spec"][field] = [] if isinstance(value, list) else {}
    assert attest(pod, child, settings()) != ()


def test_requests_that_kubernetes_copies_from_limits_pass(child: ChildRecord) -> None:
    template = copy.deepcopy(child.template)
    resources = template["spec"]["containers"][0]["resources"]
    resources["limits"]["nvidia.com/gpu"] = "1"
    child = child.model_copy(update={"template": template})
    pod = honest_pod(child, "abcde", "pod")
    container(pod)["resources"]["requests"]["nvidia.com/gpu"] = "1"
    assert attest(pod, child, settings()) == ()
    container(pod)["resources"]["requests"]["nvidia.com/gpu"] = "2"
    assert attest(pod, child, settings()) != ()


def test_an_annotation_of_the_cni_is_a_mismatch_unless_settings_name_it(child: ChildRecord) -> None:
    pod = honest_pod(child, "abcde", "pod")
    HONEST["CNI annotation"](pod)
    assert attest(pod, child, settings()) == (
        "metadata.annotations.cni.projectcalico.org/podIP: was added",
    )


def test_a_mismatch_never_tells_a_value(child: ChildRecord) -> None:
    pod = honest_pod(child, "abcde", "pod")
    container(pod)["env"][0]["value"] = "a secret of somebody"
    (mismatch,) = attest(pod, child, settings())
    assert mismatch == "spec.containers[0].env[0].value: differs"
