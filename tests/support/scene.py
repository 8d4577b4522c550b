"""A guarded namespace in which the operator runs a job, and a user who would like its keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from securetrain.api import names
from support import samples
from support.api import Api, Object, eventually
from support.chart import OPERATOR_USER
from support.installed import allow, bind, chart_installed, make_namespace

TEAM = "guarded"
OPEN = "unguarded"
USER = "alice"
JOB = names.child_job("digits-v7", names.Purpose.TRAIN)
PODS = f"/api/v1/namespaces/{TEAM}/pods"
JOBS = f"/apis/batch/v1/namespaces/{TEAM}/jobs"
POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{TEAM}/networkpolicies"
TRAININGS = f"/apis/securetrain.dev/v1alpha1/namespaces/{TEAM}/securetrainingjobs"
TOKENS = f"/api/v1/namespaces/{TEAM}/serviceaccounts/{names.SERVICE_ACCOUNT}/token"

MORE_THAN_EDIT: list[Object] = [
    {
        "apiGroups": [""],
        "resources": ["pods/ephemeralcontainers", "pods/resize", "pods/status"],
        "verbs": ["patch", "update"],
    },
    {
        "apiGroups": ["securetrain.dev"],
        "resources": ["securetrainingjobs/status"],
        "verbs": ["patch", "update"],
    },
]
"""What platforms often add to the built-in role; the guards must not depend on its absence."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Who is there.

    Attributes:
        admin: the cluster's administrator.
        user: has the role `edit`, and more.
        operator: impersonates the operator's account, with the chart's RBAC.
        chart: the rendered objects.
        pod: name of the pod that the Job controller made for the operator's Job.
    """

    admin: Api
    user: Api
    operator: Api
    chart: list[Object]
    pod: str

    @property
    def pod_path(self) -> str:
        """Path of the job's pod."""
        return f"{PODS}/{self.pod}"

    def live_pod(self) -> Object:
        """The job's pod as the API server has it."""
        return self.admin.get(self.pod_path).expect()


@contextmanager
def staged(admin: Api) -> Iterator[Scene]:
    """Install the chart and run one job; at the end the namespaces are deleted.

    Only who makes them again waits until they are gone: that takes five seconds at least.
    """
    with chart_installed(admin) as chart:
        await_removal(admin, TEAM, OPEN)
        try:
            operator, user = admin.as_user(OPERATOR_USER), admin.as_user(USER)
            for name in (TEAM, OPEN):
                make_namespace(admin, name, enabled=name == TEAM)
                bind(admin, USER, "edit", name)
                allow(admin, USER, name, "more-than-edit", MORE_THAN_EDIT)
            launch(operator, TEAM)
            _belongings(user)
            yield Scene(admin, user, operator, chart, pod_of(admin, JOB, TEAM))
        finally:
            for name in (TEAM, OPEN):
                jobs = f"/apis/batch/v1/namespaces/{name}/jobs"
                admin.delete(jobs, propagationPolicy="Background").expect()
                admin.delete(f"/api/v1/namespaces/{name}").expect()


def launch(operator: Api, namespace: str) -> None:
    """Make a job's children as the operator does."""
    operator.create(samples.service_account(namespace)).expect()
    operator.create(samples.network_policy("stj-digits-v7", namespace)).expect()
    operator.create(samples.child(namespace=namespace)).expect()


def _belongings(user: Api) -> None:
    """What else the user has in the namespace."""
    job = samples.training_job(namespace=TEAM)
    eventually(lambda: user.create(job, dry_run=True).ok, "role edit has securetrainingjobs")
    user.create(job).expect()
    user.create(samples.pod("bystander", TEAM, audience=None)).expect()
    user.create(samples.foreign_job("bystander", TEAM)).expect()
    user.create(samples.network_policy("bystander", TEAM)).expect()


def pod_of(admin: Api, job: str, namespace: str) -> str:
    """Name of a Job's pod, once the Job controller has made it."""
    found: list[str] = []

    def look() -> bool:
        path = f"/api/v1/namespaces/{namespace}/pods"
        query = {"labelSelector": f"batch.kubernetes.io/job-name={job}"}
        items = admin.call("GET", path, query=query).expect()["items"]
        found.extend(item["metadata"]["name"] for item in items)
        return bool(found)

    eventually(look, f"the Job controller makes a pod for {job}")
    return found[0]


def await_removal(admin: Api, *names: str) -> None:
    """Wait until namespaces that were deleted, or never were, are not there."""
    paths = [f"/api/v1/namespaces/{name}" for name in names]

    def gone() -> bool:
        return all(admin.get(path).status == 404 for path in paths)

    eventually(gone, f"namespaces {', '.join(names)} are gone", seconds=120)
