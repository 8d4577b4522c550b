"""What storage can put back after an owner has re-wrapped or revoked, asked of the real gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from localcluster.openbao import OpenBao
from securetrain.api.gateway import WrappedDek
from securetrain.api.names import Purpose, Split
from securetrain.sealed.dataset import KEYS_FILE, POLICY_FILE, dump_keys, load_dataset, parse_keys
from securetrain.sealed.rewrap import rewrap
from support import owned_data
from support.gateway_world import trained
from support.owned_data import Owned, rules_of

STRICT = {"notAfter": "2031-01-01T00:00:00Z"}


@dataclass(frozen=True)
class Kept:
    """What somebody with access to the storage kept of one dataset, and of its neighbours."""

    owned: Owned
    folder: Path
    loose: Path
    """As it was sealed, under a looser policy."""
    strict: Path
    """Re-wrapped under a stricter one, before anything was revoked."""
    now: Path
    """After the owner revoked."""
    other: Path
    """Another dataset under the same KEK, wrapped since."""
    foreign: Path
    """Another dataset under another KEK of the namespace."""


@pytest.fixture(scope="module")
def kept(openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("kept")
    owned = owned_data.prepare(openbao, "putback")
    data = owned.seal(folder / "digits")
    loose = owned_data.copy(data, folder / "loose")
    with owned.custodian() as kek:
        rewrap(data, load_dataset(data), kek, policy=rules_of(**STRICT))
    strict = owned_data.copy(data, folder / "strict")
    for earlier in (loose, strict):  # without --revoke an earlier policy stays valid
        assert asyncio.run(granted(owned, earlier)) == 200
    with owned.custodian() as kek:
        rewrap(data, load_dataset(data), kek, policy=rules_of(**STRICT), revoke=True)
        assert kek.versions().least == 2  # the latest version was this re-wrap's own
        rewrap(data, load_dataset(data), kek, policy=rules_of(gates=[]), revoke=True)
    other = owned.seal(folder / "other", seed=2)
    foreign = owned.seal(folder / "foreign", "other", seed=3)
    return Kept(owned, folder, loose, strict, data, other, foreign)


async def granted(owned: Owned, folder: Path) -> int:
    """Status of a grant for a new job with the dataset in a folder."""
    world = owned.world(folder.parent)
    async with world.client() as client:
        return (await client.grant(world.pod(), **owned_data.asked(folder)))[0]


def put(folder: Path, policy: Path | bytes | None = None, keys: Path | bytes | None = None) -> None:
    """Overwrite policy.json or keys.json by another dataset's, or by bytes."""
    for name, source in ((POLICY_FILE, policy), (KEYS_FILE, keys)):
        if source is not None:
            data = source if isinstance(source, bytes) else (source / name).read_bytes()
            (folder / name).write_bytes(data)


def keys_of(folder: Path) -> dict[Split, WrappedDek]:
    return parse_keys((folder / KEYS_FILE).read_bytes())


def with_keys(folder: Path, change: Callable[[Split, WrappedDek], WrappedDek]) -> None:
    put(
        folder,
        keys=dump_keys({split: change(split, key) for split, key in keys_of(folder).items()}),
    )


def edit_policy(folder: Path, kept: Kept) -> None:
    rules = json.loads((folder / POLICY_FILE).read_bytes())
    put(folder, policy=json.dumps({**rules, "notAfter": "2098-01-01T00:00:00Z"}).encode())


def respell_policy(folder: Path, kept: Kept) -> None:
    put(folder, policy=(folder / POLICY_FILE).read_bytes() + b"\n")


def relabel(folder: Path, kept: Kept) -> None:
    """Old wrapped keys that claim to be of the new version."""
    version = keys_of(kept.now)[Split.TRAIN].wrapped.split(":")[1]
    put(folder, policy=kept.loose, keys=kept.loose)
    with_keys(
        folder,
        lambda _, key: key.model_copy(
            update={"wrapped": f"vault:{version}:{key.wrapped.split(':')[2]}"}
        ),
    )


def swap_splits(folder: Path, kept: Kept) -> None:
    found = keys_of(folder)
    turned = {Split.TRAIN: Split.TEST, Split.TEST: Split.TRAIN}
    with_keys(folder, lambda split, _: found[turned.get(split, split)])


def foreign_under_our_name(folder: Path, kept: Kept) -> None:
    theirs, ours = keys_of(kept.foreign), keys_of(folder)
    version = ours[Split.TRAIN].wrapped.split(":")[1]
    with_keys(
        folder,
        lambda split, key: key.model_copy(
            update={"wrapped": f"vault:{version}:{theirs[split].wrapped.split(':')[2]}"}
        ),
    )


ATTACKS: dict[str, tuple[Callable[[Path, Kept], None], str]] = {
    "the old pair": (lambda f, k: put(f, k.loose, k.loose), "KeyRevoked"),
    "the pair of the re-wrap before": (lambda f, k: put(f, k.strict, k.strict), "KeyRevoked"),
    "old keys alone": (lambda f, k: put(f, keys=k.loose), "KeyRevoked"),
    "old policy alone": (lambda f, k: put(f, policy=k.loose), "WrongKey"),
    "old keys with a new version's label": (relabel, "WrongKey"),
    "an edited policy": (edit_policy, "WrongKey"),
    "a policy that only reads the same": (respell_policy, "WrongKey"),
    "another dataset's keys": (lambda f, k: put(f, keys=k.other), "WrongKey"),
    "another dataset's pair": (lambda f, k: put(f, k.other, k.other), "WrongKey"),
    "keys of another split": (swap_splits, "WrongKey"),
    "keys that name another KEK": (
        lambda f, k: with_keys(
            f, lambda _, key: key.model_copy(update={"kek": k.owned.kek("other")})
        ),
        "WrongKey",
    ),
    "another KEK's keys under our KEK's name": (foreign_under_our_name, "WrongKey"),
    "another KEK's keys": (lambda f, k: put(f, keys=k.foreign), "WrongKey"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_what_storage_puts_back_gets_no_key_and_ends_the_job_by_name(
    kept: Kept, tmp_path: Path, name: str
) -> None:
    attack, reason = ATTACKS[name]
    folder = owned_data.copy(kept.now, tmp_path / "data")
    attack(folder, kept)
    world = kept.owned.world(tmp_path)
    async with world.client() as client:
        status, problem = await client.grant(world.pod(), **owned_data.asked(folder))
    assert status in (403, 422)
    assert problem["reason"] == reason
    record = world.record
    assert record.failure is not None
    assert (record.phase, record.failure.reason) == ("Failed", reason)
    assert "Fix: " in record.failure.message
    assert record.grants == ()
    assert "grant.issued" not in world.kinds


async def test_what_the_owner_left_there_gets_its_keys(kept: Kept, tmp_path: Path) -> None:
    world = kept.owned.world(tmp_path)
    async with world.client() as client:
        status, _ = await client.grant(world.pod(), **owned_data.asked(kept.now))
    assert status == 200
    assert world.kinds[-1] == "grant.issued"


@pytest.mark.parametrize("purpose", list(Purpose))
async def test_a_revoked_message_says_whom_to_ask(
    kept: Kept, tmp_path: Path, purpose: Purpose
) -> None:
    world = kept.owned.world(tmp_path)
    if purpose is Purpose.CERTIFY:
        trained(world)
    async with world.client() as client:
        body = owned_data.asked(kept.loose, purpose)
        status, problem = await client.grant(world.pod(purpose), **body)
    assert (status, problem["reason"]) == (403, "KeyRevoked")
    assert "ask the data owner" in problem["detail"]


async def test_a_job_under_way_is_certified_if_only_its_keys_are_new(
    kept: Kept, tmp_path: Path
) -> None:
    data = kept.owned.seal(tmp_path / "data", "third")
    old = owned_data.copy(data, tmp_path / "old")
    world = kept.owned.world(tmp_path)
    async with world.client() as client:
        assert (await client.grant(world.pod(), **owned_data.asked(data)))[0] == 200
        same = (data / POLICY_FILE).read_bytes()
        with kept.owned.custodian("third") as kek:
            rewrap(data, load_dataset(data), kek, policy=same, revoke=True)
        trained(world)
        pod = world.pod(Purpose.CERTIFY, "fghij")
        assert (await client.grant(pod, **owned_data.asked(data, Purpose.CERTIFY)))[0] == 200
        again = world.pod(Purpose.CERTIFY, "klmno")
        status, problem = await client.grant(again, **owned_data.asked(old, Purpose.CERTIFY))
    assert (status, problem["reason"]) == (403, "KeyRevoked")


async def test_a_kek_that_the_namespace_may_not_use_is_waited_for_and_gives_nothing(
    kept: Kept, tmp_path: Path
) -> None:
    folder = owned_data.copy(kept.now, tmp_path / "data")
    with_keys(folder, lambda _, key: key.model_copy(update={"kek": "somebody-elses"}))
    world = kept.owned.world(tmp_path)
    async with world.client() as client:
        status, problem = await client.grant(world.pod(), **owned_data.asked(folder))
    assert (status, problem["reason"]) == (503, "VaultDenied")
    assert world.record.phase == "Training"
    assert world.record.grants == ()
