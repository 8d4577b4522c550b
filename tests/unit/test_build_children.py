"""The children of a job: what the pod may do, reach and know."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from securetrain.api import names
from securetrain.api.gateway import RunSpec
from securetrain.api.names import Purpose
from securetrain.api.types import JobSpec, ModelSpec, Resources
from securetrain_operator.build.account import service_account
from securetrain_operator.build.fidelity import differences
from securetrain_operator.build.job import Launch, child_job, resources
from securetrain_operator.build.network import network_policy
from securetrain_operator.core import transitions
from securetrain_operator.core.observed import parse_job
from support.world import (
    FILES,
    NAMESPACE,
    TIME,
    TRAINER,
    UID,
    USER_IMAGE,
    World,
    job_object,
    settings,
)


def launch(purpose: Purpose = Purpose.TRAIN, **spec: Any) -> Launch:
    item = job_object(**spec)
    item["metadata"] |= {"namespace": NAMESPACE, "creationTimestamp": TIME}
    job = parse_job(item)
    assert job.spec is not None, job.fault
    options = settings()
    return Launch(
        purpose=purpose,
        job=job.ref,
        labels=dict(job.labels),
        spec=job.spec,
        record=transitions.accepted(job.ref, job.spec_sha256, TIME),
        settings=options,
        connection=options.vault_connections[0],
        gateway_ca="the CA of the gateway",
    )


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(job)["containers"]
    found: dict[str, Any] = container
    return found


def run_of(job: dict[str, Any]) -> RunSpec:
    (env,) = container_of(job)["env"]
    assert env["name"] == names.RUN_SPEC_ENV
    return RunSpec.model_validate_json(env["value"])


def test_the_pod_keeps_the_restricted_pod_security_standard() -> None:
    job = child_job(launch())
    pod, container = pod_of(job), container_of(job)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] >= 10_000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers"}


def test_the_pod_has_no_token_but_the_projected_one() -> None:
    pod = pod_of(child_job(launch()))
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["serviceAccountName"] == names.SERVICE_ACCOUNT
    (token,) = [v for v in pod["volumes"] if "projected" in v]
    assert token["projected"]["sources"] == [
        {
            "serviceAccountToken": {
                "audience": "securetrain/test",
                "expirationSeconds": 600,
                "path": "token",
            }
        }
    ]


def test_the_dataset_is_mounted_read_only_and_one_claim_only_once() -> None:
    two = child_job(launch())
    claims = {
        v["name"]: v["persistentVolumeClaim"]
        for v in pod_of(two)["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert claims == {
        "dataset": {"claimName": "datasets", "readOnly": True},
        "output": {"claimName": "models"},
    }
    one = child_job(launch(output={"uri": "pvc://datasets/models/m", "kek": "k"}))
    assert [v["name"] for v in pod_of(one)["volumes"]] == ["output", "token", "tmp"]
    mounts = {m["mountPath"]: m for m in container_of(one)["volumeMounts"]}
    assert mounts["/dataset"] == {"name": "output", "mountPath": "/dataset", "readOnly": True}
    assert "readOnly" not in mounts["/output"]


def test_the_run_spec_tells_the_pod_everything() -> None:
    run = run_of(child_job(launch()))
    assert (run.dataset_path, run.output_path) == ("/dataset/digits", "/output/digits-v7")
    assert run.image == run.certify_image == "builtin@sha256:" + "b" * 64
    assert run.gateway.ca == "the CA of the gateway"
    assert run.vault.url == "https://10.0.0.5:8200"
    assert run.job.uid == UID
    assert run.artefacts == ()
    assert not run.replace_output


def test_nothing_in_the_run_spec_is_expanded_by_kubelet() -> None:
    model = ModelSpec(architecture="cnn", parameters={"x": "$(KUBERNETES_SERVICE_HOST) $$"})
    plain = launch()
    job = child_job(replace(plain, spec=plain.spec.model_copy(update={"model": model})))
    assert "$" not in container_of(job)["env"][0]["value"]
    assert run_of(job).model.parameters["x"] == "$(KUBERNETES_SERVICE_HOST) $$"


def test_certify_never_runs_the_users_image_and_gets_the_trained_files() -> None:
    pod = {
        "image": USER_IMAGE,
        "resources": {"limits": {"memory": "9Gi", "nvidia.com/gpu": 1}},
        "nodeSelector": {"gpu": "true"},
    }
    train = child_job(launch(pod=pod))
    assert container_of(train)["image"] == USER_IMAGE
    assert run_of(train).image == USER_IMAGE
    plan = launch(Purpose.CERTIFY, pod=pod)
    world_results = World()
    world_results.records.set(plan.record)
    world_results.results(Purpose.TRAIN)
    certify = child_job(
        Launch(
            purpose=Purpose.CERTIFY,
            job=plan.job,
            labels=plan.labels,
            spec=plan.spec,
            record=world_results.record,
            settings=plan.settings,
            connection=plan.connection,
            gateway_ca="ca",
        )
    )
    assert container_of(certify)["image"] == TRAINER
    assert run_of(certify).artefacts == FILES
    assert run_of(certify).image == USER_IMAGE
    assert container_of(certify)["resources"]["limits"] == {"memory": "2Gi"}
    assert pod_of(certify)["nodeSelector"] == {"gpu": "true"}
    assert certify["spec"]["backoffLimit"] == 3


def test_the_failure_policy_follows_the_exit_codes() -> None:
    job = child_job(launch(backoffLimit=7))
    assert job["spec"]["backoffLimit"] == 7
    rules = [
        (
            rule["action"],
            rule.get("onExitCodes", {}).get("values") or rule["onPodConditions"][0]["type"],
        )
        for rule in job["spec"]["podFailurePolicy"]["rules"]
    ]
    assert rules == [
        ("Ignore", "DisruptionTarget"),
        ("Ignore", [11]),
        ("FailJob", [10, 12, 13, 14]),
    ]
    assert pod_of(job)["restartPolicy"] == "Never"


def test_only_kueues_labels_are_handed_on_and_only_to_the_job() -> None:
    job = child_job(launch())
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert "team" not in job["metadata"]["labels"]
    assert set(job["spec"]["template"]["metadata"]["labels"]) == {
        names.MANAGED_BY_LABEL,
        names.JOB_LABEL,
        names.JOB_UID_LABEL,
        names.PURPOSE_LABEL,
    }
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (UID, True)


@pytest.mark.parametrize(
    ("chosen", "memory"),
    [
        (None, "2Gi"),
        ({"limits": {"memory": "4Gi"}}, "4Gi"),
        ({"requests": {"memory": "3Gi"}}, "3Gi"),
        ({"requests": {"memory": "1Gi"}, "limits": {"memory": "4Gi"}}, "4Gi"),
    ],
)
def test_memory_is_requested_in_full(chosen: dict[str, Any] | None, memory: str) -> None:
    made = resources(Resources.model_validate(chosen) if chosen else None)
    assert made["requests"]["memory"] == made["limits"]["memory"] == memory


def test_the_network_policy_denies_by_default_and_opens_three_ways() -> None:
    job = launch().job
    policy = network_policy(job, settings(), settings().vault_connections[0])
    spec = policy["spec"]
    assert spec["podSelector"] == {"matchLabels": {names.JOB_UID_LABEL: UID}}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec
    gateway, vault, dns = spec["egress"]
    assert gateway["to"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "securetrain"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "securetrain-operator"}},
        }
    ]
    assert gateway["ports"] == [{"protocol": "TCP", "port": 8443}]
    assert vault == {
        "to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}],
        "ports": [{"protocol": "TCP", "port": 8200}],
    }
    assert [p["protocol"] for p in dns["ports"]] == ["UDP", "TCP"]


@pytest.mark.parametrize(
    ("address", "cidrs", "blocks"),
    [
        ("https://vault.example", (), []),
        ("https://vault.example", ("10.1.0.0/16", "10.2.0.0/16"), ["10.1.0.0/16", "10.2.0.0/16"]),
        ("https://[fd00::5]:8200", (), ["fd00::5/128"]),
    ],
)
def test_ways_to_vault(address: str, cidrs: tuple[str, ...], blocks: list[str]) -> None:
    connection = settings().vault_connections[0]
    changed = connection.model_copy(update={"address": address, "egress_cidrs": cidrs})
    egress = network_policy(launch().job, settings(), changed)["spec"]["egress"]
    found = [to["ipBlock"]["cidr"] for rule in egress for to in rule["to"] if "ipBlock" in to]
    assert found == blocks


def test_the_service_account_mounts_no_token() -> None:
    assert service_account(NAMESPACE)["automountServiceAccountToken"] is False


def stored(job: dict[str, Any]) -> dict[str, Any]:
    """A template as the API server returns it."""
    template: dict[str, Any] = copy.deepcopy(job["spec"]["template"])
    template["metadata"]["labels"]["batch.kubernetes.io/job-name"] = "stj-digits-v7-train"
    template["metadata"]["creationTimestamp"] = None
    template["spec"] |= {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
    template["spec"]["serviceAccount"] = names.SERVICE_ACCOUNT
    template["spec"]["containers"][0]["imagePullPolicy"] = "IfNotPresent"
    template["spec"]["containers"][0]["resources"]["limits"]["memory"] = "2147483648"
    return template


def test_what_the_api_server_fills_in_is_no_difference() -> None:
    job = child_job(launch())
    assert list(differences(job["spec"]["template"], stored(job))) == []


TAMPERINGS = {
    "template.spec.initContainers": lambda t: t["spec"].update(initContainers=[{"name": "spy"}]),
    "template.spec.containers": lambda t: t["spec"]["containers"].append({"name": "spy"}),
    "template.spec.hostNetwork": lambda t: t["spec"].update(hostNetwork=True),
    "template.spec.volumes": lambda t: t["spec"]["volumes"].append({"name": "x", "hostPath": {}}),
    "template.spec.containers[0].image": lambda t: t["spec"]["containers"][0].update(image="evil"),
    "template.spec.containers[0].command": lambda t: t["spec"]["containers"][0].update(command=[]),
    "template.spec.containers[0].env[0].value": lambda t: t["spec"]["containers"][0]["env"][
        0
    ].update(value="{}"),
    "template.spec.automountServiceAccountToken": lambda t: t["spec"].pop(
        "automountServiceAccountToken"
    ),
    "template.metadata.labels.securetrain.dev/job-uid": lambda t: t["metadata"]["labels"].update(
        {names.JOB_UID_LABEL: "another"}
    ),
    "template.metadata.annotations": lambda t: t["metadata"].update(annotations={"a": "b"}),
}


@pytest.mark.parametrize("path", TAMPERINGS)
def test_what_anybody_else_changes_is_a_difference(path: str) -> None:
    job = child_job(launch())
    template = stored(job)
    TAMPERINGS[path](template)
    assert list(differences(job["spec"]["template"], template)) == [path]


def test_empty_lists_that_the_api_server_drops_are_no_difference() -> None:
    asked = {"tolerations": [], "nodeSelector": {}, "flag": False}
    assert list(differences(asked, {"flag": False})) == []
    assert list(differences(asked, {})) == ["template.flag"]


def test_a_whole_spec_has_all_that_is_chosen_for_the_pod() -> None:
    pod = {
        "imagePullSecrets": [{"name": "regcred"}],
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "batch",
        "runtimeClassName": "kata",
    }
    made = pod_of(child_job(launch(pod=pod)))
    assert {key: made[key] for key in pod} == pod
    assert JobSpec.model_validate(job_object(pod=pod)["spec"]).pod.image is None
