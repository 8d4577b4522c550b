"""An API server that refuses, stalls, breaks off or forgets: jobs go on, and nothing is made twice.

The operator is a process of its own; a proxy between it and the real API server makes the faults.
The jobs of the first part run at once, each with one kind of fault at every step of its way.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api import names
from securetrain.api.names import Purpose
from support import faults, faulty
from support.chart import OPERATOR_NAMESPACE
from support.fault_proxy import Exchange, Fault, FaultProxy, Matches, Request, Rule
from support.faulty import Ways
from support.stage import Stage

pytestmark = pytest.mark.timeout(600)

TEAM = "faults-api"
REFUSED = [faults.status(code, retry_after=1) for code in (410, 429, 500, 503)]
FAULTS: dict[str, Sequence[Fault]] = {
    "conflict": [faults.status(409)],
    "refused": REFUSED,
    "refused-otherwise": REFUSED[2:] + REFUSED[:2],
    "dropped": [faults.drop_before],
    "lost": [faults.drop_after, faults.cut, faults.status_after(500)],
    "late": [faults.slow(0.5), faults.drip(0.002, size=64)],
}
"""By job: its steps meet these in turn."""
ALL = (*FAULTS, "redirected")
GONE = {"gone-1": "conflict", "gone-2": "dropped", "gone-3": "late"}
"""Jobs that are deleted at last, and which faults they meet before."""
TOUCH_SECONDS = 0.4
PATIENCE = 400
"""Seconds; it takes 30 where nothing else runs."""


@dataclass
class Scene:
    """An operator at work behind its proxies, and the rules that spoil each job's way."""

    stage: Stage
    ways: Ways
    rules: dict[str, dict[str, Rule]] = field(default_factory=dict)

    def spoil(self, name: str, faults: Sequence[Fault]) -> None:
        """Apply a job that meets one of the faults at each step."""
        uid = self.stage.apply(name, suspend=True)
        turns = zip(steps(name, uid).items(), cycle(faults), strict=False)
        self.rules[name] = {
            step: self.ways.api.on(matches, fault) for (step, matches), fault in turns
        }
        self.stage.change(name, suspend=False)

    def wait_for_all(self) -> None:
        """Wait until the jobs have ended, touching them: else each fault costs half a minute."""
        until, going = time.monotonic() + PATIENCE, set(self.rules)
        while going and time.monotonic() < until:
            for name in going:
                self.touch(name)
            time.sleep(TOUCH_SECONDS)
            going = {name for name in going if not self.stage.ended(name)}

    def touch(self, name: str) -> None:
        """Wake a job up."""
        touch = {"metadata": {"annotations": {"touched": str(time.monotonic())}}}
        self.stage.admin.patch(f"{self.stage.jobs}/{name}", touch).expect()


def steps(name: str, uid: str) -> dict[str, Matches]:
    """What operator and gateway ask of the API server for a job."""
    own, team = f"/namespaces/{OPERATOR_NAMESPACE}/", f"/namespaces/{TEAM}/"
    record, train = names.launch_record(uid), names.child_job(name, Purpose.TRAIN)
    certify = names.child_job(name, Purpose.CERTIFY)
    return {
        "make the record": faults.write_of(f"{own}configmaps", name),
        "change the record": faults.write_of(f"{own}configmaps", name, "PUT"),
        "read the record": lambda r: r.method == "GET" and r.path.endswith(record),
        "close the network": faults.write_of(f"{team}networkpolicies", name),
        "launch training": faults.write_of(f"{team}jobs", train),
        "launch certification": faults.write_of(f"{team}jobs", certify),
        "review a token": lambda r: r.path.endswith("/tokenreviews") and holder(r, train),
        "read the pod": lambda r: r.method == "GET" and f"{team}pods/{train}-" in r.path,
        "write the status": faults.write_of(f"{team}securetrainingjobs", name, "PATCH"),
        "show the audit": faults.write_of(f"{team}configmaps", name),
        "post an Event": faults.write_of(f"{team}events", name),
    }


def holder(request: Request, job: str) -> bool:
    """Whether the token under review is of a pod of that Job."""
    claims = request.json["spec"]["token"].split(".")[1]
    pod = json.loads(base64.urlsafe_b64decode(claims + "=="))["kubernetes.io"]["pod"]["name"]
    return str(pod).startswith(f"{job}-")


@pytest.fixture(scope="module")
def scene(
    control_plane: ControlPlane, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("faults-api")
    with (
        faulty.opened(control_plane, openbao, folder, TEAM) as (stage, ways),
        stage.operator.running(),
    ):
        stage.operator.wait_ready()
        yield Scene(stage, ways)


@pytest.fixture(scope="module")
def other(scene: Scene) -> Iterator[FaultProxy]:
    """Another host, which clients of the API server would trust."""
    api = scene.ways.api
    with FaultProxy(scene.ways.folder / "api", api.url, api.ca_pem) as host:
        yield host


@pytest.fixture(scope="module")
def spoilt(scene: Scene, other: FaultProxy) -> Scene:
    """The jobs, at their ends."""
    for name, turns in FAULTS.items():
        scene.spoil(name, turns)
    for name, like in GONE.items():
        scene.spoil(name, FAULTS[like])
    scene.spoil("redirected", [faults.redirect(307, other.url), faults.redirect(302, other.url)])
    scene.wait_for_all()
    return scene


@pytest.mark.parametrize("name", ALL)
def test_a_job_succeeds_and_trains_once_though_every_step_of_its_way_meets_a_fault(
    spoilt: Scene, name: str
) -> None:
    assert {step for step, rule in spoilt.rules[name].items() if not rule.hits} == set()
    faulty.check_trained_once(spoilt.stage, name)
    jobs = [{pod.owner for pod in spoilt.stage.player.of(name, purpose)} for purpose in Purpose]
    once = [len(made) for made in jobs] == [1, 1]
    assert once or name == "lost", "only a Job whose answer was lost is made anew"


def test_no_token_follows_a_redirect_to_another_host(spoilt: Scene, other: FaultProxy) -> None:
    api, to_there = spoilt.ways.api, faults.redirect(307, other.url)
    watches = api.on(lambda r: r.is_watch, to_there, times=3)
    faults.drop_watches(api)
    spoilt.stage.until(lambda: watches.times == 0, "the watches are tried again")
    assert [r for r in other.seen if "authorization" in r.headers or r.body] == []


LOSSES: dict[str, Callable[[FaultProxy], object]] = {
    "dropped": faults.drop_watches,
    "expired": faults.expire_watches,
    "silent": faults.silence_watches,
}


def three_watches(api: FaultProxy) -> set[Exchange]:
    """The watches under way, if all three kinds are watched."""
    found = {exchange for exchange in list(api.open) if exchange.request.is_watch}
    return found if len(found) == 3 else set()


@pytest.mark.parametrize(
    ("loss", "gone"), [("dropped", "gone-1"), ("expired", "gone-2"), ("silent", "gone-3")]
)
def test_a_job_made_and_one_deleted_while_watches_are_lost_are_seen(
    spoilt: Scene, loss: str, gone: str
) -> None:
    stage, made = spoilt.stage, f"made-{loss}"
    uid = stage.job(gone)["metadata"]["uid"]
    watching = stage.until(lambda: three_watches(spoilt.ways.api), "all kinds are watched")
    LOSSES[loss](spoilt.ways.api)
    stage.admin.delete(f"{stage.jobs}/{gone}").expect()
    stage.apply(made, suspend=True)
    stage.until(lambda: stage.phase(made) == "Suspended", "the new job is seen")
    stage.until(lambda: stage.record(uid) is None, "what was deleted is cleared away")
    assert not watching & spoilt.ways.api.open or loss == "silent"


ECHO = "cGxhaW50ZXh0LWtleS1pbi1hbi1lcnJvci10ZXh0"
VAULT: Sequence[tuple[str, Fault]] = (
    ("VaultUnavailable", faults.vault_errors(429, ECHO)),
    ("VaultRoleMissing", faults.vault_errors(403, ECHO)),
    ("VaultSealed", faults.vault_errors(503, f"Vault is sealed {ECHO}")),
    ("VaultClockSkew", faults.vault_errors(400, f"invalid (exp) claim: {ECHO}")),
    ("VaultRedirects", faults.redirect(307, "https://127.0.0.1:1")),
)


def test_what_is_wrong_with_vault_is_named_and_nothing_is_launched_until_it_is_right(
    spoilt: Scene,
) -> None:
    stage, vault, name = spoilt.stage, spoilt.ways.vault, "patient"
    faults.drop_watches(spoilt.ways.api)  # so that none of them is silent
    stage.apply(name, suspend=True)

    def told(reason: str) -> bool:
        conditions = (stage.job(name).get("status") or {}).get("conditions", ())
        return any((c["type"], c["reason"]) == ("Ready", reason) for c in conditions)

    for reason, fault in VAULT:
        vault.on(lambda r: r.path.endswith("/login"), fault, times=None)
        del vault.rules[:-1]
        stage.change(name, suspend=False)
        spoilt.touch(name)
        stage.until(lambda: told(reason), f"the status says {reason}")  # noqa: B023 used at once
        assert stage.child(name, Purpose.TRAIN) is None
    events = stage.admin.get(f"/api/v1/namespaces/{TEAM}/events").expect()
    assert ECHO not in json.dumps([events, stage.job(name)]) + stage.operator.log
    vault.clear()
    spoilt.touch(name)
    stage.until(lambda: stage.ended(name), "it goes on")
    faulty.check_trained_once(stage, name)


def test_all_that_was_said_meanwhile_is_in_plain_words_and_holds_no_token(spoilt: Scene) -> None:
    faulty.check_words(spoilt.stage)
