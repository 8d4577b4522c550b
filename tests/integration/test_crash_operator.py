"""The operator is killed at each step that it takes: each job ends as it should, once and whole."""

from __future__ import annotations

import base64
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import yaml

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from support import faulty
from support.hunting import hunt
from support.lives import Death
from support.raw_audit import RawAudit, raw_audit
from support.stage import Stage
from support.tales import Tale, Theatre, Told, is_optional, theatre

LANES = 4
SHARES = 7
"""Jobs over which the steps of a whole life are spread: operators die at every seventh step."""
SAMPLED = {
    "misses": (
        "Certifying: line results.certify verdict job.failed",
        "Certifying: replace record job.failed",
        "Failed: answer results",
        "Failed: line job.finished",
        "Failed: replace record head signed",
    ),
    "denied": (
        "Training: line job.failed",
        "Training: replace record job.failed",
        "Failed: replace record job.finished",
        "Failed: vault sign",
    ),
    "suspended": (
        "Training: delete jobs",
        "Training: line train.suspended",
        "Training: replace record train.suspended",
        "Pending: line train.resumed",
        "Pending: replace record train.resumed",
        "Training: replace record grant.issued",
    ),
    "deleted": (
        "Training: replace record grant.recorded",
        "Training: line job.deleted",
        "Training: replace record job.deleted",
        "Failed: delete configmaps",
    ),
}
"""Steps that other lives have besides; the long run has them all."""
KNOWN = {
    "Pending: create jobs stj-*-train",
    "Training: replace record grant.recorded",
    "Training: vault wrap train",
    "Training: answer grants",
    "Training: replace record results.train",
    "Certifying: create jobs stj-*-certify",
    "Certifying: vault sign",
    "Certifying: answer results",
    "Succeeded: replace record head signed",
}
"""Some steps of a whole life, so that a hook that sees nothing does not look like no steps."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def vault_secrets(openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawAudit]:
    """What only Vault knows of all that the operators did."""
    with raw_audit(openbao, tmp_path_factory.mktemp("vault") / "raw.jsonl") as vault:
        yield vault


@pytest.fixture(scope="module")
def scene(
    control_plane: ControlPlane,
    openbao: OpenBao,
    vault_secrets: RawAudit,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Theatre]:
    folder = tmp_path_factory.mktemp("crashes")
    with theatre(control_plane, openbao, folder, LANES) as opened:
        yield opened


@pytest.fixture(scope="module")
def undisturbed(scene: Theatre) -> Told:
    """A life in which nobody dies, which says what there is to die at."""
    (told,) = scene.tell([Tale("succeeds", "succeeds-0")])
    return told


@pytest.fixture(scope="module")
def told(scene: Theatre, undisturbed: Told) -> Sequence[Told]:
    """Whole lives, one or another of which ends before each step, and the sampled ones; at once."""
    steps = undisturbed.effects
    shares = [list(map(Death, steps[share::SHARES])) for share in range(SHARES)]
    shares.append([Death(step, "gently") for step in steps[2::SHARES]])
    sampled = [Tale(kind, f"{kind}-1", list(map(Death, SAMPLED[kind]))) for kind in SAMPLED]
    whole = [Tale("succeeds", f"succeeds-{n}", share) for n, share in enumerate(shares, start=1)]
    return scene.tell([*whole, *sampled])


def test_a_job_whose_operator_lives_leaves_everything_once_and_whole(
    undisturbed: Told,
) -> None:
    assert undisturbed.faults == []
    assert undisturbed.effects[0] == "New: line job.accepted"
    assert set(undisturbed.effects) >= KNOWN


def test_a_job_whose_operator_dies_at_every_step_is_trained_once_signed_and_accounted_for(
    told: Sequence[Told],
) -> None:
    every_step = [one for one in told if one.tale.kind == "succeeds"]
    assert [str(one) for one in every_step if one.faults] == []
    missed = [death for one in every_step for death in one.undied if death.how == "before"]
    assert [str(death) for death in missed if not is_optional(death.effect)] == []
    (gently,) = (one for one in every_step if {d.how for d in one.tale.deaths} == {"gently"})
    assert len(gently.undied) < len(gently.tale.deaths) - 3  # told to end, one ends what it began


@pytest.mark.parametrize("kind", SAMPLED)
def test_a_job_that_fails_rests_or_goes_while_its_operator_dies_does_so_once(
    told: Sequence[Told], kind: str
) -> None:
    (one,) = (one for one in told if one.tale.kind == kind)
    assert one.faults == []
    assert [str(death) for death in one.undied] == []


def test_what_operators_said_before_they_died_is_in_plain_words_and_holds_no_token(
    scene: Theatre, told: Sequence[Told]
) -> None:
    assert len(told) > len(SAMPLED)
    for lane in scene.lanes:
        faulty.check_words(lane)


def test_nothing_that_killed_operators_left_holds_a_key_or_a_token(
    scene: Theatre, told: Sequence[Told], vault_secrets: RawAudit, control_plane: ControlPlane
) -> None:
    """One hunt for all lives: etcd keeps what was written or deleted since the first of them."""
    planted = secrets.token_bytes(32)
    plant(scene.lanes[0], planted)
    wanted = secrets_of(scene, vault_secrets) | {"planted": planted}
    kinds = Counter(name.partition(" ")[0] for name in wanted)
    assert min(kinds[kind] for kind in ("key", "wrapping", "login", "pod", "operator")) >= LANES
    places = {
        "etcd": control_plane.state / "etcd",
        "logs of the control plane": control_plane.state / "logs",
        "Vault's log": scene.lanes[0].openbao.audit_log,
    }
    for lane in scene.lanes:
        for name in ("stdout", "stderr", "effects"):
            places[f"{name} in {lane.namespace}"] = lane.operator.folder / name
        places[f"volumes in {lane.namespace}"] = lane.player.volumes / lane.namespace
    found = hunt(wanted, places)
    assert {find.place for find in found if find.secret == "planted"} == {"etcd"}
    assert [str(find) for find in found if find.secret != "planted"] == []


def plant(lane: Stage, secret: bytes) -> None:
    """Give a secret away as a bug would, so that a hunt that finds nothing means something."""
    lane.admin.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "planted", "namespace": lane.namespace},
            "data": {"oops": f"key: {base64.b64encode(secret).decode()}"},
        }
    ).expect()


def secrets_of(scene: Theatre, vault: RawAudit) -> dict[str, bytes]:
    """Every key, wrapping token and login of all lives, and the tokens of pods and operators."""
    tokens = {"pod token": list[bytes](), "operator token": list[bytes]()}
    for lane in scene.lanes:
        login = yaml.safe_load(lane.operator.kubeconfig.read_text())["users"][0]["user"]["token"]
        own = (login, (lane.operator.folder / "vault-token").read_text())
        tokens["operator token"] += map(signature, own)
        files = (lane.player.volumes / "tokens").iterdir()
        tokens["pod token"] += [signature(file.read_text()) for file in files]
    found = {
        "key": vault.unwrapped(),
        "wrapping token": map(str.encode, vault.wrapping_tokens()),
        "login": map(str.encode, vault.logins()),
        **tokens,
    }
    return {
        f"{kind} {number}": secret
        for kind, every in found.items()
        for number, secret in enumerate(sorted(every))
    }


def signature(token: str) -> bytes:
    """The part of a token of Kubernetes without which it is worth nothing."""
    return token.strip().rpartition(".")[2].encode()
