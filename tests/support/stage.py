"""A namespace with a sealed dataset, an operator process and played pods, on real servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api.names import (
    API_VERSION,
    PLURAL,
    RECORD_KEY,
    Purpose,
    child_job,
    launch_record,
)
from securetrain.sealed.writer import SealOptions, seal
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import Custodian
from securetrain_operator.adapters.records import parse
from securetrain_operator.core.record import LaunchRecord
from support import operator_process, samples, trainer_kit
from support.api import Answer, Api, Object
from support.chart import OPERATOR_NAMESPACE, OPERATOR_USER, of_kind, render
from support.installed import ROLE_KINDS, bind, chart_installed, install_crd, make_namespace
from support.operator_process import OperatorProcess
from support.pod_player import PodPlayer

DATASET: Final = "digits"
MODEL_KEK: Final = "app-models"
LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Stage:
    """One namespace of jobs, and the operator that watches it alone."""

    admin: Api
    control_plane: ControlPlane
    openbao: OpenBao
    operator: OperatorProcess
    player: PodPlayer
    namespace: str
    home: str = OPERATOR_NAMESPACE
    """Where the operator keeps its launch records."""

    @property
    def jobs(self) -> str:
        """Path of the namespace's SecureTrainingJobs."""
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}"

    def apply(self, name: str, **spec: Any) -> str:
        """Create a job of that name, with some fields of its spec replaced; returns its UID."""
        body = samples.training_job(name, self.namespace, **(job_spec(name) | spec))
        return str(self.admin.create(body).expect()["metadata"]["uid"])

    def change(self, name: str, **spec: Any) -> None:
        """Change fields of a job's spec."""
        self.admin.patch(f"{self.jobs}/{name}", {"spec": spec}).expect()

    def job(self, name: str) -> Object:
        """The job as it stands; without `metadata` if it is gone."""

        return self._read(f"{self.jobs}/{name}").body

    def phase(self, name: str) -> str:
        """The job's phase as its status shows it."""
        return str(self.job(name).get("status", {}).get("phase", ""))

    def child(self, name: str, purpose: Purpose) -> Object | None:
        """The Job of one phase."""
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{child_job(name, purpose)}"
        answer = self._read(path)
        return answer.body if answer.ok else None

    def record(self, uid: str) -> LaunchRecord | None:
        """A job's launch record, its chain checked; None if there is none."""
        path = f"/api/v1/namespaces/{self.home}/configmaps/{launch_record(uid)}"
        answer = self._read(path)
        return parse(answer.body["data"][RECORD_KEY], uid) if answer.ok else None

    def _read(self, path: str) -> Answer:
        """What is there or not, once the API server says so: an error is neither."""

        def told() -> Answer | None:
            answer = self.admin.get(path)
            return answer if answer.ok or answer.status == 404 else None

        found: Answer = self.until(told, f"the API server says whether {path} is there")
        return found

    def model(self, name: str) -> Path:
        """The folder in which a job's model ends up."""
        return self.player.volumes / self.namespace / "models" / name

    def ended(self, name: str) -> bool:
        """True once a job has ended, its status says so, and its audit head is signed."""
        job = self.job(name)
        if job.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            return False
        record = self.record(job["metadata"]["uid"])
        return record is not None and record.head_signature is not None

    def until(self, check: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
        """Wait until `check` holds and return what it found."""
        deadline = time.monotonic() + seconds
        while not (found := check()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self._story()}"
            time.sleep(LOOK_SECONDS)
        return found

    def _story(self) -> str:
        lines = [
            f"{pod.name}: {pod.stages} exit {pod.exit_code} {pod.message}"
            for pod in self.player.pods[-8:]
        ]
        return "\n".join([*lines, self.operator.log[-3000:]])


def job_spec(name: str) -> dict[str, Any]:
    """The spec of a job that takes no time."""
    return {
        "datasets": [{"name": DATASET, "uri": f"pvc://datasets/{DATASET}"}],
        "model": {"architecture": "mlp"},
        "training": {"epochs": 1},
        "certification": {"gates": [{"metric": "accuracy", "min": 0.9}]},
        "output": {"uri": f"pvc://models/{name}", "kek": MODEL_KEK},
    }


@contextmanager
def opened(
    control_plane: ControlPlane,
    openbao: OpenBao,
    folder: Path,
    namespace: str,
    *,
    guards: bool = False,
    install: bool = True,
    home: str = OPERATOR_NAMESPACE,
    **settings: Any,
) -> Iterator[Stage]:
    """Prepare everything; the operator is not started.

    Args:
        folder: an empty folder, for the operator's files and the volumes.
        namespace: made here, and watched by this operator only.
        guards: install the chart's admission guards too, until the end.
        install: False if another stage has put CRD and roles there.
        home: namespace of the launch records: operators that run side by side share none.
        settings: further settings of the operator.
    """
    admin = Api(control_plane.kubeconfig)
    with ExitStack() as stack:
        if install:
            _install(admin, stack, guards=guards)
        make_namespace(admin, namespace)
        if home != OPERATOR_NAMESPACE:
            make_namespace(admin, home, enabled=False)
            bind(admin, OPERATOR_USER, "edit", home)
        for claim in ("datasets", "models"):
            admin.apply(samples.claim(claim, namespace)).expect()
        operator_process.set_up_vault(openbao, control_plane, namespace)
        volumes = folder / "volumes"
        seal_dataset(openbao, volumes / namespace / "datasets" / DATASET, namespace)
        (volumes / namespace / "models").mkdir(parents=True)
        own = {"namespace": home, "watchNamespaces": [namespace], "requireGuards": guards}
        # Played pods have one address between them, and must not wait for each other's calls.
        settings = own | {"peerAddressHidden": True} | settings
        operator = operator_process.prepare(folder, control_plane, openbao, namespace, **settings)
        player = PodPlayer(
            admin, [namespace], volumes, lambda _: operator.gateway_port, node=f"{namespace}-node"
        )
        with player:
            yield Stage(admin, control_plane, openbao, operator, player, namespace, home)


def _install(admin: Api, stack: ExitStack, *, guards: bool) -> None:
    if guards:
        stack.enter_context(chart_installed(admin))
        return
    make_namespace(admin, OPERATOR_NAMESPACE, enabled=False)
    install_crd(admin)
    for item in of_kind(render(), *ROLE_KINDS):
        admin.apply(item).expect()


def seal_dataset(openbao: OpenBao, folder: Path, namespace: str, **policy: Any) -> None:
    """Seal a small dataset for a namespace, under a real KEK; `policy` changes its usage policy."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    rules = {"namespaces": [namespace], "outputKeks": [MODEL_KEK], **policy}
    options = SealOptions(kek="app-digits", policy=trainer_kit.policy(**rules))
    with VaultClient(openbao.address, openbao.ca_pem, token=openbao.root_token) as client:
        owner = Custodian(client, options.transit_mount, options.kek)
        seal(trainer_kit.source(), folder, options, owner)
