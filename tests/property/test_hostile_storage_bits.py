"""One changed bit, anywhere in any file of a dataset, stops the pod that needs the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securetrain.api.gateway import RunSpec
from securetrain.api.names import Purpose
from securetrain.errors import ExitCode, IntegrityError, PolicyDenied, SecuretrainError, WrongKey
from securetrain.sealed.pair import KEYS_FILE, PENDING_FILE, POLICY_FILE, Pending
from securetrain.sealed.strict_json import dump
from securetrain.secret import Secret
from support.hostile import Vaultlike, read_as_pod
from support.trainer_kit import GivenKeys, run_spec, seal_dataset

TRAIN, CERTIFY = (Purpose.TRAIN,), (Purpose.CERTIFY,)
SHARDS = tuple(
    (purposes, f"shards/{split}-00000-of-00001.tfrecord.sealed")
    for purposes, split in ((TRAIN, "train"), (TRAIN, "validation"), (CERTIFY, "test"))
)
CASES = (
    (TRAIN, "dataset.json"),
    (TRAIN, "policy.json"),
    ((Purpose.TRAIN, Purpose.CERTIFY), "keys.json"),
    *((TRAIN, f"{split}.index.jsonl") for split in ("train", "validation", "test")),
    *SHARDS,
)
"""The pods of which one must find it: each uses its own keys only."""
Purposes = tuple[Purpose, ...]


@dataclass
class Sealed:
    """A small dataset of one shard a split, and its owner's keys."""

    root: Path
    vault: Vaultlike

    def run(self, purpose: Purpose) -> RunSpec:
        return run_spec(self.root, purpose)

    def refusal(self, purposes: Purposes) -> SecuretrainError:
        """What the first of these pods that fails ends with."""
        for purpose in purposes:
            try:
                read_as_pod(self.run(purpose), self.vault.keys)
            except SecuretrainError as error:
                return error
        pytest.fail(f"nobody minded: {purposes}")

    def with_flipped(self, purposes: Purposes, name: str, bit: int) -> SecuretrainError:
        file = self.root / "data" / name
        data = file.read_bytes()
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with file.open("r+b") as stream:
            stream.write(changed)
            stream.flush()
            try:
                return self.refusal(purposes)
            finally:
                stream.seek(0)
                stream.write(data)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    root, vault = tmp_path_factory.mktemp("bits"), Vaultlike()
    seal_dataset(root / "data", records=20, wrapper=vault)
    return Sealed(root, vault)


def check(error: SecuretrainError, name: str) -> None:
    """It says which file; and it is an integrity failure, unless the policy itself says no."""
    assert Path(name).name in str(error) or name == "policy.json"
    if not (name == "policy.json" and isinstance(error, PolicyDenied)):
        assert isinstance(error, IntegrityError), error
        assert error.exit_code == ExitCode.INTEGRITY


def test_the_untouched_dataset_can_be_read(sealed: Sealed) -> None:
    assert read_as_pod(sealed.run(Purpose.TRAIN), sealed.vault.keys) == 2
    assert read_as_pod(sealed.run(Purpose.CERTIFY), sealed.vault.keys) == 1
    files = {str(p.relative_to(sealed.root / "data")) for p in sealed.root.rglob("*.*")}
    assert files - {"data"} == {name for _, name in CASES}  # no file is left out below


@pytest.mark.parametrize(("purposes", "name"), SHARDS)
def test_every_byte_of_every_shard_counts(sealed: Sealed, purposes: Purposes, name: str) -> None:
    for place in range((sealed.root / "data" / name).stat().st_size):
        check(sealed.with_flipped(purposes, name, place * 8 + (place * 5 + place // 8) % 8), name)


@pytest.mark.parametrize(("purposes", "name"), sorted({*CASES} - {*SHARDS}))
def test_every_bit_of_every_other_file_counts(
    sealed: Sealed, purposes: Purposes, name: str
) -> None:
    for bit in range(8 * (sealed.root / "data" / name).stat().st_size):
        check(sealed.with_flipped(purposes, name, bit), name)


def test_every_bit_of_an_interrupted_rewrap_counts(sealed: Sealed) -> None:
    """While rewrap.json is there, it is policy.json and keys.json, and they are not looked at."""
    data = sealed.root / "data"
    both = ((data / name).read_bytes() for name in (POLICY_FILE, KEYS_FILE))
    pending = data / PENDING_FILE
    pending.write_bytes(dump(Pending.of(*both)))
    try:
        assert read_as_pod(sealed.run(Purpose.TRAIN), sealed.vault.keys) == 2
        for bit in range(8 * pending.stat().st_size):
            check(sealed.with_flipped((Purpose.TRAIN,), PENDING_FILE, bit), PENDING_FILE)
    finally:
        pending.unlink()


@settings(deadline=None, max_examples=300)
@given(case=st.sampled_from(CASES), place=st.floats(0, 1, exclude_max=True))
def test_any_bit_of_any_file_counts(
    sealed: Sealed, case: tuple[Purposes, str], place: float
) -> None:
    bits = (sealed.root / "data" / case[1]).stat().st_size * 8
    check(sealed.with_flipped(*case, int(place * bits)), case[1])


@pytest.mark.parametrize("purpose", list(Purpose))
def test_another_key_is_told_before_a_shard_is_read(sealed: Sealed, purpose: Purpose) -> None:
    other = Vaultlike()
    for binding in sealed.vault._bound:
        other._bound[binding] = Secret(b"x" * 32)
    with pytest.raises(WrongKey, match=r"split .* dataset\.json and keys\.json") as caught:
        read_as_pod(sealed.run(purpose), other.keys)
    assert caught.value.exit_code == ExitCode.INTEGRITY


def test_keys_of_a_careless_source_still_open_nothing_else(sealed: Sealed) -> None:
    """Behind the key check, each shard's own tag says no as well."""
    swapped = dict(zip(sealed.vault.deks, reversed(sealed.vault.deks.values()), strict=True))
    with pytest.raises(IntegrityError, match="shards/train-00000"):
        read_as_pod(sealed.run(Purpose.TRAIN), GivenKeys(swapped, Secret(bytes(32))))


@pytest.mark.parametrize(("purposes", "name"), SHARDS)
def test_a_missing_shard_is_named(sealed: Sealed, purposes: Purposes, name: str) -> None:
    file = sealed.root / "data" / name
    aside = file.rename(sealed.root / "aside")
    try:
        error = sealed.refusal(purposes)
    finally:
        aside.rename(file)
    assert isinstance(error, IntegrityError)
    assert f"{name} of split" in str(error)
    assert "does not exist" in str(error)
