"""Pods with the same service account and audience that are not quite the pod that was launched.

No guard is installed, so the gateway is alone. Each imitation has all labels and the ownerReference
forged, runs on the real node and has a token that the API server vouches for; one thing differs.
The Job controller sleeps meanwhile, for it would delete the second pod of a Job within a second.
After all of them the real pod, and it alone, gets its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api.names import JOB_LABEL, JOB_UID_LABEL
from support import samples
from support.api import Object
from support.gateway_stage import GatewayStage, job_controller_asleep
from support.imitators import (
    EVIL,
    PATHS,
    Change,
    call,
    container,
    imitating,
    mount,
    refusal,
    volume,
)
from support.real_gateway import staged

VICTIM, COPIED, GRANTED = "victim", "copied", "granted"
PROBE = {"exec": {"command": ["sh", "-c", "cat /proc/1/mem"]}}


@pytest.fixture(scope="module")
def stage(
    control_plane: ControlPlane, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayStage]:
    folder = tmp_path_factory.mktemp("imitation")
    with staged(control_plane, openbao, folder, "imitation") as made:
        runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "evil"}
        made.admin.apply(runtime | {"metadata": {"name": "evil"}}).expect()
        made.admin.apply(samples.claim("foreign", made.namespace)).expect()
        yield made


@pytest.fixture(scope="module")
def pods(stage: GatewayStage, control_plane: ControlPlane) -> Iterator[dict[str, Object]]:
    jobs = (VICTIM, COPIED, GRANTED)
    launched = dict(zip(jobs, stage.launch(*jobs), strict=True))
    with job_controller_asleep(control_plane):
        yield launched
        keys = stage.keys(launched[VICTIM])
        assert len(keys.splits) == 2
        (grant,) = stage.record(VICTIM).grants
        assert grant.pod_uid == launched[VICTIM]["metadata"]["uid"]


@pytest.fixture
def victim(pods: dict[str, Object]) -> Object:
    return pods[VICTIM]


def spec(**fields: Any) -> Change:
    return lambda pod: pod["spec"].update(fields)


def trainer(**fields: Any) -> Change:
    return lambda pod: container(pod).update(fields)


def secured(**fields: Any) -> Change:
    return lambda pod: container(pod)["securityContext"].update(fields)


def swap_claims(pod: Object) -> None:
    dataset, output = (volume(pod, name) for name in ("dataset", "output"))
    dataset["name"], output["name"] = output["name"], dataset["name"]


def swap_mounts(pod: Object) -> None:
    dataset, output = (mount(pod, name) for name in ("dataset", "output"))
    dataset["name"], output["name"] = output["name"], dataset["name"]


def added(pod: Object, kind: str, **fields: Any) -> None:
    pod["spec"].setdefault(kind, []).append({"name": "added", **fields})


SPECS: dict[str, tuple[Change, str]] = {
    "image": (trainer(image=EVIL), "containers[0].image: differs"),
    "command": (trainer(command=["sh"]), "containers[0].command: was added"),
    "args": (trainer(args=["--dump-keys"]), "containers[0].args: was added"),
    "env added": (
        lambda pod: container(pod)["env"].append({"name": "PYTHONPATH", "value": "/output"}),
        "containers[0].env: has 2 entries",
    ),
    "env changed": (
        lambda pod: container(pod)["env"][0].update(
            value=container(pod)["env"][0]["value"].replace("/output/", "/dataset/")
        ),
        "env[0].value: differs",
    ),
    "env from a ConfigMap": (
        trainer(envFrom=[{"configMapRef": {"name": "x"}}]),
        "containers[0].envFrom: was added",
    ),
    "working directory": (trainer(workingDir="/output"), "workingDir: was added"),
    "pulled anew": (trainer(imagePullPolicy="Always"), "imagePullPolicy: differs"),
    "extra volume": (
        lambda pod: added(pod, "volumes", configMap={"name": "x"}),
        "spec.volumes: has 5 entries",
    ),
    "mounted over the code": (
        lambda pod: container(pod)["volumeMounts"].append({"name": "output", "mountPath": "/app"}),
        "volumeMounts: has 5 entries",
    ),
    "swapped volumes": (swap_claims, "spec.volumes[0]"),
    "swapped mounts": (swap_mounts, "volumeMounts[0].name: differs"),
    "foreign claim under the same name": (
        lambda pod: volume(pod, "dataset")["persistentVolumeClaim"].update(claimName="foreign"),
        "volumes[0].persistentVolumeClaim.claimName: differs",
    ),
    "writable dataset": (
        lambda pod: volume(pod, "dataset")["persistentVolumeClaim"].pop("readOnly"),
        "persistentVolumeClaim.readOnly: is missing",
    ),
    "memory on a disk": (
        lambda pod: volume(pod, "tmp")["emptyDir"].pop("medium"),
        "emptyDir.medium: is missing",
    ),
    "longer token": (
        lambda pod: volume(pod, "token")["projected"]["sources"][0]["serviceAccountToken"].update(
            expirationSeconds=3600
        ),
        "serviceAccountToken.expirationSeconds: differs",
    ),
    "sub-path": (lambda pod: mount(pod, "dataset").update(subPath="x"), "subPath: was added"),
    "extra container": (
        lambda pod: added(pod, "containers", image=EVIL),
        "spec.containers: has 2 entries",
    ),
    "init container": (
        lambda pod: added(pod, "initContainers", image=EVIL),
        "spec.initContainers: was added",
    ),
    "sidecar": (
        lambda pod: added(pod, "initContainers", image=EVIL, restartPolicy="Always"),
        "spec.initContainers: was added",
    ),
    "host aliases": (
        spec(hostAliases=[{"ip": "192.0.2.1", "hostnames": ["vault.example.org"]}]),
        "spec.hostAliases: was added",
    ),
    "liveness probe": (trainer(livenessProbe=PROBE), "livenessProbe: was added"),
    "readiness probe": (trainer(readinessProbe=PROBE), "readinessProbe: was added"),
    "startup probe": (trainer(startupProbe=PROBE), "startupProbe: was added"),
    "life-cycle hooks": (trainer(lifecycle={"postStart": PROBE}), "lifecycle: was added"),
    "DNS policy": (spec(dnsPolicy="Default"), "spec.dnsPolicy: differs"),
    "DNS servers": (spec(dnsConfig={"nameservers": ["192.0.2.1"]}), "spec.dnsConfig: was added"),
    "host name": (spec(hostname="x", subdomain="y"), "spec.hostname: was added"),
    "runtime class": (spec(runtimeClassName="evil"), "spec.runtimeClassName: was added"),
    "scheduler": (spec(schedulerName="evil"), "spec.schedulerName: differs"),
    "account's token mounted": (
        spec(automountServiceAccountToken=True),
        "automountServiceAccountToken: differs",
    ),
    "service links": (spec(enableServiceLinks=True), "enableServiceLinks: differs"),
    "host network": (spec(hostNetwork=True), "spec.hostNetwork: was added"),
    "host PID": (spec(hostPID=True), "spec.hostPID: was added"),
    "host IPC": (spec(hostIPC=True), "spec.hostIPC: was added"),
    "shared processes": (spec(shareProcessNamespace=True), "shareProcessNamespace: was added"),
    "root": (
        lambda pod: pod["spec"]["securityContext"].update(runAsUser=0, runAsNonRoot=False),
        "securityContext.runAsUser: differs",
    ),
    "no seccomp": (
        lambda pod: pod["spec"]["securityContext"].pop("seccompProfile"),
        "securityContext.seccompProfile: is missing",
    ),
    "privileged": (
        secured(privileged=True, allowPrivilegeEscalation=True),
        "securityContext.privileged: was added",
    ),
    "capabilities": (
        secured(capabilities={"add": ["SYS_PTRACE"]}),
        "securityContext.capabilities.add: was added",
    ),
    "writable root": (secured(readOnlyRootFilesystem=False), "readOnlyRootFilesystem: differs"),
    "terminal": (trainer(stdin=True, tty=True), "containers[0].stdin: was added"),
    "restarts": (spec(restartPolicy="Always"), "spec.restartPolicy: differs"),
    "less memory": (
        lambda pod: [
            amounts.update(memory="64Mi") for amounts in container(pod)["resources"].values()
        ],
        "resources.limits.memory: differs",
    ),
}
METADATA: dict[str, tuple[Change, str]] = {
    "name": (
        lambda pod: pod["metadata"].update(name="other-" + pod["metadata"]["name"]),
        "metadata.name",
    ),
    "label added": (
        lambda pod: pod["metadata"]["labels"].update(app="x"),
        "metadata.labels.app: was added",
    ),
    "label gone": (
        lambda pod: pod["metadata"]["labels"].pop(JOB_LABEL),
        f"metadata.labels.{JOB_LABEL}: is missing",
    ),
    "no job": (lambda pod: pod["metadata"]["labels"].pop(JOB_UID_LABEL), "no job's label"),
    "network annotation": (
        lambda pod: pod["metadata"].update(annotations={"k8s.v1.cni.cncf.io/networks": "evil"}),
        "metadata.annotations.k8s.v1.cni.cncf.io/networks: was added",
    ),
    "no owner": (lambda pod: pod["metadata"].pop("ownerReferences"), "no Job of ours controls it"),
    "an owner that does not control": (
        lambda pod: pod["metadata"]["ownerReferences"][0].update(controller=False),
        "no Job of ours controls it",
    ),
    "a second owner": (
        lambda pod: pod["metadata"]["ownerReferences"].append(
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}
        ),
        "metadata.ownerReferences",
    ),
    "an owner of another kind": (
        lambda pod: pod["metadata"]["ownerReferences"][0].update(kind="ReplicaSet"),
        "metadata.ownerReferences",
    ),
    "an owner of another name": (
        lambda pod: pod["metadata"]["ownerReferences"][0].update(name="other"),
        "no Job of ours controls it",
    ),
}


@pytest.mark.parametrize("name", [*SPECS, *METADATA])
def test_an_imitation_is_refused_by_what_differs(
    stage: GatewayStage, victim: Object, name: str
) -> None:
    change, what = (SPECS | METADATA)[name]
    with imitating(stage, victim, change) as thief, stage.unharmed(VICTIM):
        status, reason, told = refusal(stage, call(stage, thief, stage.request(victim)))
        assert (status, reason) == (403, "NotOurPod")
        assert what in told


def test_a_copy_in_which_nothing_differs_would_be_taken_for_the_pod(
    stage: GatewayStage, pods: dict[str, Object]
) -> None:
    """So what is refused above is refused for what differs; that nobody makes one is a guard's."""
    real = pods[COPIED]
    with imitating(stage, real) as copied:
        assert call(stage, copied, stage.request(real)).status == 200


Deed = Callable[[GatewayStage, Object], Any]


def patched(*images: str) -> Deed:
    def deed(stage: GatewayStage, pod: Object) -> None:
        for image in images:
            change = {"containers": [{**container(stage.live(pod)), "image": image}]}
            stage.admin.patch(where(stage, pod), {"spec": change}).expect()

    return deed


def where(stage: GatewayStage, pod: Object, sub: str = "") -> str:
    return stage.path("pods", pod["metadata"]["name"] + sub)


def back_again(stage: GatewayStage, pod: Object) -> None:
    patched(EVIL, container(pod)["image"])(stage, pod)
    assert container(stage.live(pod)) == container(pod)


def debugged(stage: GatewayStage, pod: Object) -> None:
    body = stage.live(pod)
    body["spec"]["ephemeralContainers"] = [{"name": "debug", "image": EVIL}]
    stage.admin.call("PUT", where(stage, pod, "/ephemeralcontainers"), body).expect()


def resized(stage: GatewayStage, pod: Object) -> None:
    body = stage.live(pod)
    for amounts in container(body)["resources"].values():
        amounts["memory"] = "3Gi"
    stage.admin.call("PUT", where(stage, pod, "/resize"), body).expect()


def reported(**fields: Any) -> Deed:
    def deed(stage: GatewayStage, pod: Object) -> None:
        (status,) = pod["status"]["containerStatuses"]
        stage.report(pod, containerStatuses=[status | fields])

    return deed


def shown_debugging(stage: GatewayStage, pod: Object) -> None:
    (status,) = pod["status"]["containerStatuses"]
    stage.report(pod, ephemeralContainerStatuses=[status | {"name": "debug"}])


UNDER_WAY: dict[str, tuple[Deed, str]] = {
    "image patched": (patched(EVIL), "metadata.generation"),
    "image patched and back": (back_again, "metadata.generation"),
    "ephemeral container": (debugged, "spec.ephemeralContainers: was added"),
    "ephemeral container in the status": (shown_debugging, "there is an ephemeral container"),
    "resized": (resized, "metadata.generation"),
    "deadline": (
        lambda stage, pod: stage.admin.patch(
            where(stage, pod), {"spec": {"activeDeadlineSeconds": 60}}
        ).expect(),
        "metadata.generation",
    ),
    "labelled": (
        lambda stage, pod: stage.admin.patch(
            where(stage, pod), {"metadata": {"labels": {"app": "x"}}}
        ).expect(),
        "metadata.labels.app: was added",
    ),
    "restarted": (reported(restartCount=1), "a container has restarted"),
    "another container in the status": (reported(name="other"), "not exactly the containers"),
    "ended": (lambda stage, pod: stage.report(pod, phase="Succeeded"), "the pod has ended"),
    "terminating": (
        lambda stage, pod: stage.admin.delete(where(stage, pod), gracePeriodSeconds=30).expect(),
        "the pod is terminating",
    ),
}


@pytest.mark.parametrize("name", UNDER_WAY)
def test_a_pod_that_was_changed_before_it_asks_is_refused(
    stage: GatewayStage, victim: Object, name: str
) -> None:
    deed, what = UNDER_WAY[name]
    with imitating(stage, victim) as pod:
        token = stage.token(pod)
        deed(stage, pod)
        with stage.unharmed(VICTIM):
            answer = call(stage, pod, stage.request(victim), token)
            status, reason, told = refusal(stage, answer)
            assert (status, reason) == (403, "NotOurPod")
            assert what in told


@pytest.mark.parametrize("part", ["podIPs", "containerStatuses"])
def test_a_pod_of_which_nothing_is_reported_yet_waits(
    stage: GatewayStage, victim: Object, part: str
) -> None:
    with imitating(stage, victim) as pod:
        token, gone = stage.token(pod), {part: None} | ({"podIP": None} if part == "podIPs" else {})
        stage.report(pod, **gone)
        with stage.unharmed(VICTIM):
            answer = call(stage, pod, stage.request(victim), token)
            assert (answer.status, answer.body["reason"]) == (503, "NotReady")


def test_a_pod_that_is_patched_after_its_grant_and_back_has_no_say_any_more(
    stage: GatewayStage, pods: dict[str, Object]
) -> None:
    real = pods[GRANTED]
    body, token = stage.request(real), stage.token(real)
    stage.keys(real)
    back_again(stage, real)
    with stage.unharmed(GRANTED):
        for path in PATHS:
            status, reason, told = refusal(stage, call(stage, real, body, token, path))
            assert (status, reason) == (403, "NotOurPod")
            assert "metadata.generation" in told
