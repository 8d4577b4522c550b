"""The chart's cluster-scoped half on a real API server: CRD, roles, guards; and people with roles.

Only for tests of them: guards know one operator and one audience, so they are taken away again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from support import samples
from support.api import Answer, Api, Object, collection, eventually
from support.chart import OPERATOR_NAMESPACE, named, of_kind, render

GUARD_KINDS = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
PROBED = "securetrain-pod-create"
ROLE_KINDS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount")
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
BINDINGS = f"{ADMISSION}/validatingadmissionpolicybindings"
CRD_KIND = "CustomResourceDefinition"


def denied_by(answer: Answer, guard: str) -> bool:
    """Whether that guard refused the request, by what it says and not because it broke."""
    return (
        answer.status in (403, 422)
        and f"ValidatingAdmissionPolicy '{guard}'" in answer.message
        and "resulted in error" not in answer.message
    )


def namespace(name: str, *, enabled: bool = True) -> Object:
    """A namespace that a platform administrator has enabled for jobs, or not."""
    labels = {"securetrain.dev/jobs": "enabled"} if enabled else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def make_namespace(admin: Api, name: str, *, enabled: bool = True) -> None:
    """Create a namespace and wait until pods can start in it."""
    admin.apply(namespace(name, enabled=enabled)).expect()
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    eventually(lambda: admin.get(account).ok, f"service account of {name}")


def bind(admin: Api, user: str, role: str, where: str, kind: str = "ClusterRole") -> None:
    """Give a user a role in a namespace."""
    group = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{user.replace(':', '.')}.{role}", "namespace": where},
        "roleRef": {"apiGroup": group, "kind": kind, "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    admin.apply(binding).expect()


def allow(admin: Api, user: str, where: str, name: str, rules: Sequence[Object]) -> None:
    """Give a user more than a built-in role has, as many platforms do."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": where},
        "rules": list(rules),
    }
    admin.apply(role).expect()
    bind(admin, user, name, where, kind="Role")


def install_crd(admin: Api) -> None:
    """Apply the CRD and wait until it is served."""
    (definition,) = of_kind(render(), CRD_KIND)
    admin.apply(definition).expect()
    jobs = "/apis/securetrain.dev/v1alpha1/securetrainingjobs"
    eventually(lambda: admin.get(jobs).ok, "the CRD is served")


@contextmanager
def chart_installed(admin: Api) -> Iterator[list[Object]]:
    """Apply CRD, roles and guards, wait until they bite, and take the guards away at the end."""
    objects = render()
    make_namespace(admin, OPERATOR_NAMESPACE, enabled=False)
    install_crd(admin)
    guards = sorted(of_kind(objects, *GUARD_KINDS), key=_probed_last)
    for item in of_kind(objects, *ROLE_KINDS) + guards:
        admin.apply(item).expect()
    try:
        make_namespace(admin, "guard-probe")
        eventually(lambda: _bites(admin), "the guards deny")
        yield objects
    finally:
        for item in guards:
            admin.delete(f"{collection(item)}/{item['metadata']['name']}")
        eventually(lambda: not _bites(admin), "the guards are gone")


def _probed_last(guard: Object) -> tuple[bool, bool]:
    """Policies, then bindings, each with the probed guard's last: who knows it knows them all."""
    return guard["kind"] == GUARD_KINDS[1], guard["metadata"]["name"] == PROBED


def _bites(admin: Api) -> bool:
    probe = samples.pod("stj-probe", "guard-probe", audience=None)
    probe["spec"]["serviceAccountName"] = "default"
    return denied_by(admin.create(probe, dry_run=True), PROBED)


@contextmanager
def without(
    admin: Api, objects: Sequence[Object], guard: str, bites: Callable[[], bool]
) -> Iterator[None]:
    """Take one guard's binding away for a while; `bites` says whether the guard is at work."""
    admin.delete(f"{BINDINGS}/{guard}").expect()
    try:
        eventually(lambda: not bites(), f"{guard} is gone")
        yield
    finally:
        admin.apply(named(objects, "ValidatingAdmissionPolicyBinding", guard)).expect()
        eventually(bites, f"{guard} is back")
