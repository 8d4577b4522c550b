"""Wrong jobs on a real API server and operator: refused or told about, with field and fix."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.errors import ExitCode, exit_code_of
from support import operator_process, samples, stage
from support.api import Api, Object, collection
from support.bad_inputs import (
    GONE_KEK,
    IDLE,
    PLAIN_KEK,
    POLICIES,
    REFUSED,
    ROLELESS,
    TEAM,
    TOLD,
    UNLABELLED,
    Refused,
    Told,
    changed,
)
from support.installed import make_namespace
from support.stage import Stage

pytestmark = pytest.mark.timeout(900)

CLAIMS = ("datasets", "models")
SECONDS = 10
POD_SECONDS = 60
TOO_BIG = {"labelSelector": "securetrain.dev/job=too-big"}
TRANSIT = "/v1/transit/keys"


@pytest.fixture(scope="module")
def scene(
    control_plane: ControlPlane, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """One API server with the whole chart and one operator for all rows."""
    folder = tmp_path_factory.mktemp("bad-input")
    places = [TEAM, IDLE, ROLELESS, UNLABELLED]
    with stage.opened(
        control_plane, openbao, folder, TEAM, guards=True, watchNamespaces=places, workers=16
    ) as made:
        for place in places[1:]:
            make_namespace(made.admin, place, enabled=place != UNLABELLED)
            for name in CLAIMS:
                made.admin.apply(samples.claim(name, place)).expect()
        for place in (TEAM, IDLE):
            operator_process.set_up_vault(openbao, control_plane, place, GONE_KEK, PLAIN_KEK)
        spoil_keks(openbao)
        fill_volumes(made)
        add_connections(made.operator.settings_file)
        with made.operator.running():
            made.operator.wait_ready(120)
            yield made


@pytest.fixture(scope="module")
def told(scene: Stage) -> Mapping[str, Object]:
    """The conditions of what the operator knows by itself, all jobs applied at once."""
    return conditions_of(scene.admin, [row for row in TOLD if not row.launched], SECONDS)


@pytest.fixture(scope="module")
def launched(scene: Stage, told: Mapping[str, Object]) -> Mapping[str, Object]:
    """The conditions of jobs that are launched first, for only then it shows."""
    return conditions_of(scene.admin, [row for row in TOLD if row.launched], POD_SECONDS)


def conditions_of(admin: Api, rows: Sequence[Told], seconds: float) -> Mapping[str, Object]:
    """Apply all jobs, and take each one's condition when it gives its reason."""
    for row in rows:
        admin.create(row.manifest()).expect()
    found: dict[str, Object] = {}
    until = time.monotonic() + seconds * busy()
    while len(found) < len(rows) and time.monotonic() < until:
        play_scheduler(admin)
        for row in rows:
            condition = headline(admin, row) if row.name not in found else {}
            if condition.get("reason") == row.reason:
                found[row.name] = condition
        time.sleep(0.1)
    return found


def busy() -> float:
    """How many times longer all takes on a machine that has other things to do.

    Beside other processes of tests it is always six: the load of the last minute says nothing of
    what they begin in the next.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return 6.0
    return min(4.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def spoil_keks(openbao: OpenBao) -> None:
    """Take one model KEK away, and make the other again without derivation."""
    for name in (GONE_KEK, PLAIN_KEK):
        openbao.api("POST", f"{TRANSIT}/{name}/config", {"deletion_allowed": True})
        openbao.api("DELETE", f"{TRANSIT}/{name}")
    openbao.api("POST", f"{TRANSIT}/{PLAIN_KEK}", {"type": "aes256-gcm96"})


def fill_volumes(made: Stage) -> None:
    """Seal the datasets, and put something where a model is to go."""
    volumes = made.player.volumes / TEAM
    for name, policy in POLICIES.items():
        if name != stage.DATASET:
            stage.seal_dataset(made.openbao, volumes / "datasets" / name, TEAM, **policy)
    (volumes / "models" / "taken").mkdir()
    (volumes / "models" / "taken" / "thesis.txt").write_text("years of work")


def play_scheduler(admin: Api) -> None:
    """Say of the pod that no node takes what a scheduler says."""
    pods = f"/api/v1/namespaces/{IDLE}/pods"
    for pod in admin.call("GET", pods, query=TOO_BIG).expect()["items"]:
        said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        said["message"] = "0/3 nodes are available: 3 Insufficient cpu."
        status = {"status": {"conditions": [said]}}
        admin.patch(f"{pods}/{pod['metadata']['name']}/status", status).expect()


def add_connections(file: Path) -> None:
    """A Vault that is another team's, one that is away, and a rule for the team's claims."""
    settings = yaml.safe_load(file.read_text())
    (default,) = settings["vaultConnections"]
    default["allowedNamespaces"] = [TEAM, IDLE, ROLELESS]
    settings["vaultConnections"] = [
        default,
        {**default, "name": "elsewhere", "allowedNamespaces": ["others"]},
        {**default, "name": "away", "address": "https://127.0.0.1:1"},
    ]
    settings["namespaces"] = {"*": {}, TEAM: {"claims": [*CLAIMS, "x", "missing"]}}
    file.write_text(yaml.safe_dump(settings))


def headline(admin: Api, row: Told) -> Object:
    """The condition that says how a job is, with its phase."""
    manifest = row.manifest()
    path = f"{collection(manifest)}/{manifest['metadata']['name']}"
    status = admin.get(path).expect().get("status", {})
    ready = [c for c in status.get("conditions", []) if c["type"] == "Ready"]
    return {**ready[0], "phase": status["phase"]} if ready else {}


def test_the_job_that_all_rows_are_bent_from_is_accepted(scene: Stage) -> None:
    manifest = changed("digits-v7", TEAM, {})
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    scene.admin.call("POST", collection(manifest), manifest, query=query).expect()


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_a_wrong_job_is_refused_by_field_value_and_fix(scene: Stage, row: Refused) -> None:
    manifest = row.manifest()
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = scene.admin.call("POST", collection(manifest), manifest, query=query)
    assert answer.status in (400, 422), f"accepted: {answer.body}"
    assert row.field in answer.message
    assert row.fix in answer.message


@pytest.mark.parametrize("row", [r for r in TOLD if not r.launched], ids=lambda row: row.name)
def test_what_only_the_operator_can_know_is_told_within_10_seconds(
    scene: Stage, told: Mapping[str, Object], row: Told
) -> None:
    assert row.name in told, f"{headline(scene.admin, row)}\n{scene.operator.log[-3000:]}"
    check(row, told[row.name])


@pytest.mark.parametrize("row", [r for r in TOLD if r.launched], ids=lambda row: row.name)
def test_what_only_a_pod_can_see_is_told_as_soon_as_it_has_looked(
    scene: Stage, launched: Mapping[str, Object], row: Told
) -> None:
    assert row.name in launched, f"{headline(scene.admin, row)}\n{scene.operator.log[-3000:]}"
    check(row, launched[row.name])


def check(row: Told, condition: Object) -> None:
    """Reason, field, value and fix; and a reason that the table of exit codes knows."""
    said, _, fix = condition["message"].partition(". Fix: ")
    assert condition["phase"] == row.phase
    assert row.field in said
    assert row.value in said
    assert row.fix in fix
    assert exit_code_of(row.reason) is not ExitCode.BUG or row.phase == "Pending"


def test_no_wrong_job_makes_the_operator_stumble(
    scene: Stage, launched: Mapping[str, Object]
) -> None:
    assert "Traceback" not in scene.operator.log
    for line in scene.operator.log.splitlines():
        assert json.loads(line)["level"] != "ERROR", line
