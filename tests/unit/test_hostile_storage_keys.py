"""Names and forms in keys.json that nothing binds: damage is told at once, by file and field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from securetrain.api.names import Split
from securetrain.errors import ExitCode, ManifestInvalid, exit_code_of
from securetrain.sealed.dataset import parse_keys
from securetrain.vault.answers import refusal

WRAPPED = "vault:v1:" + "A" * 80


def ring(**changes: str) -> bytes:
    """A keys.json in which the test split's entry has something changed."""
    entry = {"mount": "transit", "kek": "digits", "wrapped": WRAPPED}
    keys: dict[str, Any] = {split: dict(entry) for split in Split}
    keys["test"] |= changes
    return json.dumps({"format": "securetrain/keys/v1", "keys": keys}).encode()


def test_a_whole_one_is_read() -> None:
    assert set(parse_keys(ring())) == set(Split)


@pytest.mark.parametrize("changes", [{"kek": "dhgits"}, {"mount": "transiu"}])
def test_names_of_one_kek_must_agree(changes: dict[str, str]) -> None:
    """Vault would only say `denied`, as where setup was forgotten, and the pod would wait."""
    with pytest.raises(ManifestInvalid, match=r"keys\.json: .*one KEK"):
        parse_keys(ring(**changes))


@pytest.mark.parametrize("place", [9, 40, 88])
def test_a_wrapped_key_that_is_no_base64_is_refused_by_the_pod(place: int) -> None:
    with pytest.raises(ManifestInvalid, match=r"keys\.json: keys\.test\.wrapped"):
        parse_keys(ring(wrapped=WRAPPED[:place] + "=" + WRAPPED[place + 1 :]))


def test_a_version_that_never_was_is_an_integrity_failure() -> None:
    told = refusal(400, "invalid ciphertext: version is too new", "transit/decrypt/digits")
    assert told.exit_code == exit_code_of(told.reason) == ExitCode.INTEGRITY
    assert "keys.json" in str(told)
