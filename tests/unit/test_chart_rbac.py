"""The operator can read no Secret and enter no pod: said of the chart as it is rendered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from support.chart import (
    OPERATOR_NAMESPACE,
    OPERATOR_USER,
    VALUES,
    Object,
    named,
    of_kind,
    render,
)

NAMESPACED = VALUES | {"watchNamespaces": ["team-a", "team-b"]}
MODES: dict[str, Mapping[str, Any]] = {
    "cluster": VALUES,
    "namespaced": NAMESPACED,
    "without guards": VALUES | {"guards": {"enabled": False}},
    "with output key guard": VALUES | {"guards": {"outputKeyUse": True}},
    "without CRD": VALUES | {"crds": {"enabled": False}},
    "without roles for users": VALUES | {"rbac": {"aggregateToDefaultRoles": False}},
}
FORBIDDEN_RESOURCES = {
    "secrets",
    "pods/exec",
    "pods/attach",
    "pods/portforward",
    "pods/proxy",
    "pods/ephemeralcontainers",
    "pods/log",
    "serviceaccounts/token",
    "nodes",
    "nodes/proxy",
    "roles",
    "rolebindings",
    "clusterroles",
    "clusterrolebindings",
    "customresourcedefinitions",
    "users",
    "groups",
}
FORBIDDEN_VERBS = {"impersonate", "escalate", "bind", "deletecollection"}


@pytest.fixture(scope="module", params=MODES, ids=list(MODES))
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(MODES[request.param])


def operators_rules(objects: list[Object]) -> Iterator[tuple[str | None, Object]]:
    """Every rule that is bound to the operator's account, with the namespace that it holds in."""
    roles = {
        (role["kind"], role["metadata"].get("namespace"), role["metadata"]["name"]): role
        for role in of_kind(objects, "Role", "ClusterRole")
    }
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        for subject in binding["subjects"]:
            user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
            assert user == OPERATOR_USER, "the chart binds roles to nobody else"
        where = binding["metadata"].get("namespace")
        kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
        role = roles[kind, where if kind == "Role" else None, name]
        for rule in role["rules"]:
            yield where, rule


def permissions(objects: list[Object]) -> set[tuple[str | None, str, str, str]]:
    return {
        (where, group, resource, verb)
        for where, rule in operators_rules(objects)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_operator_has_no_verb_on_secrets_nor_on_entering_pods(objects: list[Object]) -> None:
    granted = {resource for _, _, resource, _ in permissions(objects)}
    assert granted, "the test must see rules"
    assert not granted & FORBIDDEN_RESOURCES


def test_operator_has_no_wildcard_and_no_verb_that_widens_rights(objects: list[Object]) -> None:
    for where, group, resource, verb in permissions(objects):
        assert "*" not in group + resource + verb, (where, group, resource, verb)
        assert verb not in FORBIDDEN_VERBS, (where, group, resource, verb)


def test_nothing_in_any_role_of_the_chart_names_secrets(objects: list[Object]) -> None:
    for role in of_kind(objects, "Role", "ClusterRole"):
        for rule in role.get("rules", []):
            assert not set(rule["resources"]) & FORBIDDEN_RESOURCES, role["metadata"]["name"]
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_operator_never_changes_specs_pods_or_service_accounts(
    objects: list[Object],
) -> None:
    verbs: dict[str, set[str]] = {}
    for _, _, resource, verb in permissions(objects):
        verbs.setdefault(resource, set()).add(verb)
    assert verbs["securetrainingjobs"] == {"get", "list", "watch", "delete"}
    assert verbs["pods"] == {"get", "list", "watch"}
    assert verbs["jobs"] == {"get", "list", "watch", "create", "update", "delete"}
    assert verbs["serviceaccounts"] == {"get", "create"}
    assert verbs["validatingadmissionpolicies"] == {"get", "list"}


def test_cluster_mode_is_one_cluster_role_and_the_records() -> None:
    scopes = {where for where, *_ in permissions(render())}
    assert scopes == {None, OPERATOR_NAMESPACE}


def test_namespaced_mode_reads_nothing_of_other_namespaces() -> None:
    granted = permissions(render(NAMESPACED))
    everywhere = {(resource, verb) for where, _, resource, verb in granted if where is None}
    assert everywhere == {
        ("tokenreviews", "create"),
        ("validatingadmissionpolicies", "get"),
        ("validatingadmissionpolicies", "list"),
        ("validatingadmissionpolicybindings", "get"),
        ("validatingadmissionpolicybindings", "list"),
    }
    assert {where for where, *_ in granted} == {None, OPERATOR_NAMESPACE, "team-a", "team-b"}


def test_both_modes_grant_the_same_within_a_namespace() -> None:
    cluster = {p[1:] for p in permissions(render()) if p[0] is None}
    one = {p[1:] for p in permissions(render(NAMESPACED)) if p[0] in (None, "team-a")}
    assert cluster - one == {("", "namespaces", "list"), ("", "namespaces", "watch")}
    assert one <= cluster


def test_users_get_jobs_but_never_status() -> None:
    objects = render()
    edit = named(objects, "ClusterRole", "securetrain-edit")["rules"]
    view = named(objects, "ClusterRole", "securetrain-view")["rules"]
    assert [rule["resources"] for rule in edit + view] == [["securetrainingjobs"]] * 2
    assert view[0]["verbs"] == ["get", "list", "watch"]
