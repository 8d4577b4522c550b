from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest
import yaml

from securetrain.api import names
from securetrain_operator.adapters import guards
from securetrain_operator.settings import Settings
from support.chart import (
    AUDIENCE,
    KUBE_VERSION,
    OPERATOR_NAMESPACE,
    OPERATOR_USER,
    VALUES,
    ChartError,
    Object,
    named,
    of_kind,
    render,
)

FULL = VALUES | {
    "watchNamespaces": ["team-a"],
    "namespaces": {
        "*": None,
        "team-a": {"claims": ["datasets", "models"], "images": ["r.example/x@sha256:" + "d" * 64]},
    },
    "storage": {
        "connections": [
            {
                "name": "minio",
                "endpoint": "https://minio.example.org:9000",
                "region": "eu-central-1",
                "ca": "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
                "credentialsSecret": "minio-login",
                "allowedNamespaces": ["team-a"],
                "egressCidrs": ["192.0.2.9/32"],
            }
        ]
    },
    "settings": {"workers": 2, "requireGuards": True, "wrapTtlSeconds": 20},
    "guards": {"outputKeyUse": True},
    "audit": {"claim": "audit"},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "podAnnotations": {"example.org/a": "b"},
    "networkPolicy": {"extraEgress": [{"ports": [{"port": 4317, "protocol": "TCP"}]}]},
}
FULL["image"] = VALUES["image"] | {"pullSecrets": ["registry"]}


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render()


@pytest.fixture(scope="module")
def full() -> list[Object]:
    return render(FULL)


def settings_of(objects: list[Object]) -> Settings:
    text = named(objects, "ConfigMap", "securetrain-settings")["data"]["settings.yaml"]
    return Settings.model_validate(yaml.safe_load(text))


def pod_of(objects: list[Object]) -> Any:
    return named(objects, "Deployment", "securetrain-operator")["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", [VALUES, FULL], ids=["least", "all"])
def test_every_object_is_valid_kubernetes(values: Object) -> None:
    for item in render(values):
        if item["kind"] != "CustomResourceDefinition":
            kubernetes_validate.validate(item, KUBE_VERSION.rpartition(".")[0], strict=True)


def test_every_namespaced_object_is_in_the_release_namespace(objects: list[Object]) -> None:
    cluster = {
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    for item in objects:
        where = item["metadata"].get("namespace")
        assert where == (None if item["kind"] in cluster else OPERATOR_NAMESPACE), item["kind"]


def test_settings_are_what_the_operator_reads(objects: list[Object]) -> None:
    settings = settings_of(objects)
    assert settings.audience == AUDIENCE
    assert settings.namespace == OPERATOR_NAMESPACE
    assert settings.trainer_image == VALUES["image"]["trainer"]
    assert settings.gateway_url == f"https://securetrain-gateway.{OPERATOR_NAMESPACE}.svc"
    assert settings.gateway_names == (f"securetrain-gateway.{OPERATOR_NAMESPACE}.svc",)
    assert settings.require_guards is True
    connection = settings.connection("default")
    assert connection is not None
    assert connection.allows("team-a")
    assert not connection.allows("team-b")


def test_all_values_reach_the_settings(full: list[Object]) -> None:
    settings = settings_of(full)
    assert settings.watch_namespaces == ("team-a",)
    assert settings.workers == 2
    assert settings.wrap_ttl_seconds == 20
    storage = settings.storage("minio")
    assert storage is not None
    assert (storage.endpoint, storage.region) == ("https://minio.example.org:9000", "eu-central-1")
    assert (storage.credentials_secret, storage.allows("team-b")) == ("minio-login", False)
    assert settings.rule("team-a").claims == ("datasets", "models")
    assert settings.rule("team-b").claims == (), "a namespace without a rule may use nothing"


def test_namespaces_without_a_rule_get_the_default_one(objects: list[Object]) -> None:
    assert settings_of(objects).rule("anything").claims == ("*",)


def test_audience_can_be_given() -> None:
    rendered = render(VALUES | {"audience": "other/audience"})
    assert settings_of(rendered).audience == "other/audience"
    guard = yaml.safe_dump(named(rendered, "ValidatingAdmissionPolicy", "securetrain-token"))
    assert "'other/audience'" in guard.replace("''", "'")


def test_settings_name_the_operators_own_pods_and_service(objects: list[Object]) -> None:
    settings = settings_of(objects)
    deployment = named(objects, "Deployment", "securetrain-operator")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    service = named(objects, "Service", "securetrain-gateway")
    for selector in (settings.gateway_egress, service["spec"]["selector"]):
        assert selector.items() <= labels.items()
    (port,) = service["spec"]["ports"]
    ports = {p["name"]: p["containerPort"] for p in pod_of(objects)["containers"][0]["ports"]}
    assert (port["port"], port["targetPort"]) == (443, "gateway")
    assert ports == {"gateway": names.GATEWAY_PORT, "health": names.HEALTH_PORT}
    assert settings.gateway_port == names.GATEWAY_PORT


def test_pod_is_restricted(objects: list[Object]) -> None:
    pod = pod_of(objects)
    (container,) = pod["containers"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    assert "env" not in container
    assert "args" not in container
    assert container["resources"]["limits"]["memory"] == "512Mi"
    assert container["resources"]["requests"]["memory"] == "512Mi"


def test_pod_has_vaults_token_apart_from_its_api_token(objects: list[Object]) -> None:
    pod = pod_of(objects)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (source,) = volumes["vault-token"]["projected"]["sources"]
    assert source["serviceAccountToken"] == {
        "path": "token",
        "audience": "vault",
        "expirationSeconds": 600,
    }
    assert pod["automountServiceAccountToken"] is True
    assert volumes["tmp"]["emptyDir"]["medium"] == "Memory"
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounts["vault-token"] == "/var/run/secrets/vault"
    assert not [volume for volume in pod["volumes"] if "secret" in volume]


def test_the_audit_volume_is_where_the_settings_say(
    objects: list[Object], full: list[Object]
) -> None:
    audit_file = settings_of(full).audit_file
    assert audit_file is not None
    mounts = {m["name"]: m["mountPath"] for m in pod_of(full)["containers"][0]["volumeMounts"]}
    assert audit_file.startswith(mounts["audit"] + "/")
    assert settings_of(objects).audit_file is None


def test_one_replica_is_replaced_not_doubled(objects: list[Object]) -> None:
    spec = named(objects, "Deployment", "securetrain-operator")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_changed_settings_restart_the_operator(objects: list[Object], full: list[Object]) -> None:
    sums = [
        named(rendered, "Deployment", "securetrain-operator")["spec"]["template"]["metadata"][
            "annotations"
        ]["checksum/settings"]
        for rendered in (objects, full)
    ]
    assert sums[0] != sums[1]


def test_network_policy_lets_in_jobs_pods_and_out_to_vaults_own_port(
    objects: list[Object],
) -> None:
    spec = named(objects, "NetworkPolicy", "securetrain-operator")["spec"]
    gateway = spec["ingress"][0]
    (peer,) = gateway["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {
        names.NAMESPACE_LABEL: names.NAMESPACE_LABEL_VALUE
    }
    assert peer["podSelector"]["matchExpressions"][0]["key"] == names.JOB_LABEL
    vault = {
        "to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}],
        "ports": [{"port": 8200, "protocol": "TCP"}],
    }
    assert vault in spec["egress"]


def test_a_vault_without_a_port_is_reached_at_443() -> None:
    values = copy.deepcopy(VALUES)
    values["vault"]["connections"][0]["address"] = "https://vault.example.org"
    spec = named(render(values), "NetworkPolicy", "securetrain-operator")["spec"]
    (rule,) = (
        r for r in spec["egress"] if {"ipBlock": {"cidr": "192.0.2.7/32"}} in r.get("to", [])
    )
    assert rule["ports"] == [{"port": 443, "protocol": "TCP"}]


def test_crd_is_kept_on_uninstall_and_can_be_left_out(objects: list[Object]) -> None:
    (definition,) = of_kind(objects, "CustomResourceDefinition")
    assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    without = render(VALUES | {"crds": {"enabled": False}})
    assert not of_kind(without, "CustomResourceDefinition")


def test_guards_are_the_ones_that_the_operator_looks_for(objects: list[Object]) -> None:
    for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
        rendered = {item["metadata"]["name"] for item in of_kind(objects, kind)}
        assert rendered == {*names.GUARDS, "securetrain-operator"}


def test_the_operator_finds_all_guards_in_place(objects: list[Object]) -> None:
    policies = of_kind(objects, "ValidatingAdmissionPolicy")
    bindings = of_kind(objects, "ValidatingAdmissionPolicyBinding")
    assert not guards.missing(policies, bindings)
    assert set(guards.missing(policies, [])) == set(names.GUARDS)


def test_guards_fail_closed_and_deny(objects: list[Object]) -> None:
    for policy in of_kind(objects, "ValidatingAdmissionPolicy"):
        assert policy["spec"]["failurePolicy"] == "Fail", policy["metadata"]["name"]
    everywhere = {"securetrain-token", "securetrain-operator"}
    for binding in of_kind(objects, "ValidatingAdmissionPolicyBinding"):
        name, spec = binding["metadata"]["name"], binding["spec"]
        assert (spec["policyName"], spec["validationActions"]) == (name, ["Deny"])
        scope = spec.get("matchResources", {}).get("namespaceSelector", {}).get("matchLabels")
        enabled = {names.NAMESPACE_LABEL: names.NAMESPACE_LABEL_VALUE}
        assert scope == (None if name in everywhere else enabled), name


def test_guards_can_be_left_to_an_administrator() -> None:
    rendered = render(VALUES | {"guards": {"enabled": False}})
    assert not of_kind(rendered, "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


def test_guards_know_the_operator_by_name(objects: list[Object]) -> None:
    for name in ("securetrain-job", "securetrain-netpol", "securetrain-status"):
        guard = yaml.safe_dump(named(objects, "ValidatingAdmissionPolicy", name))
        assert OPERATOR_USER in guard, name


def changed(path: str, value: Any) -> Object:
    values = copy.deepcopy(VALUES)
    node: Any = values
    *parents, last = path.split("/")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "named_in_error"),
    [
        ("clusterName", "", "clusterName"),
        ("image/operator", "registry.example.org/operator:latest", "operator"),
        ("image/trainer", "trainer@sha256:abc", "trainer"),
        ("vault/connections", [], "connections"),
        ("vault/connections/0/address", "http://vault.example.org", "address"),
        ("vault/connections/0/ca", "none", "ca"),
        ("vault/connections/0/token", "s.x", "token"),
        ("watchNamespaces", ["Team A"], "watchNamespaces"),
        ("guards/jobControllers", [], "jobControllers"),
        ("guards/jobWriters", ["x' || true || 'y"], "jobWriters"),
        ("settings/requireGards", False, "requireGards"),
        ("namespaces/team-a", {"images": ["x:latest"]}, "images"),
        ("nonsense", True, "nonsense"),
    ],
)
def test_wrong_values_are_refused_by_name(path: str, value: Any, named_in_error: str) -> None:
    with pytest.raises(ChartError, match=named_in_error):
        render(changed(path, value))


def test_connections_with_two_audiences_are_refused() -> None:
    other = VALUES["vault"]["connections"][0] | {"name": "other", "audience": "vault-2"}
    values = changed("vault/connections", [*VALUES["vault"]["connections"], other])
    with pytest.raises(ChartError, match="audience must be the same"):
        render(values)
