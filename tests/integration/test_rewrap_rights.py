"""What the policies of owners let through on a real OpenBao: their own acts and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localcluster.openbao import OpenBao
from securetrain.cli.main import main
from securetrain.errors import ExitCode
from securetrain.sealed.dataset import KEYS_FILE
from support import owned_data
from support.owned_data import MODEL_KEK, Owned

ALLOWED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "st-owner": [
        ("keys/{kek}/rotate", {}),
        ("keys/{kek}/config", {"min_decryption_version": 2}),
    ],
    "st-shred": [
        ("keys/{kek}/rotate", {}),
        ("keys/{kek}/config", {"min_decryption_version": 2, "min_encryption_version": 2}),
        ("keys/{kek}/trim", {"min_available_version": 2}),
    ],
}
NOBODYS: list[tuple[str, dict[str, Any]]] = [
    ("keys/{kek}/config", {"deletion_allowed": True}),
    ("keys/{kek}/config", {"min_decryption_version": 1, "exportable": True}),
    ("keys/{kek}/config", {"min_decryption_version": 1, "allow_plaintext_backup": True}),
    ("keys/{kek}/config", {"min_decryption_version": 1, "auto_rotate_period": "1h"}),
    ("keys/new-kek", {"type": "aes256-gcm96"}),
    ("encrypt/new-kek", {"plaintext": "eA=="}),
    ("rewrap/{kek}", {"ciphertext": "vault:v1:x"}),
    ("restore/{kek}", {"backup": "eA=="}),
    (f"keys/{MODEL_KEK}/rotate", {}),
    (f"keys/{MODEL_KEK}/config", {"min_decryption_version": 1}),
    (f"keys/{MODEL_KEK}/trim", {"min_available_version": 1}),
    ("keys/not-mine/rotate", {}),
    ("keys/not-mine/config", {"min_decryption_version": 2}),
    ("keys/not-mine/trim", {"min_available_version": 2}),
]
DENIED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "st-owner": [
        ("keys/{kek}/trim", {"min_available_version": 1}),
        ("keys/{kek}/config", {"min_decryption_version": 1, "min_encryption_version": 1}),
        *NOBODYS,
    ],
    "st-shred": [("encrypt/{kek}", {"plaintext": "eA=="}), *NOBODYS],
}


@pytest.fixture(scope="module")
def owned(openbao: OpenBao) -> Owned:
    found = owned_data.prepare(openbao, "rights")
    with found.kit.admin() as admin:
        admin.write(f"{found.mount}/keys/not-mine", {"type": "aes256-gcm96"})
    return found


@pytest.mark.parametrize("policy", ALLOWED)
def test_an_owner_may_do_what_the_commands_do_and_no_more(owned: Owned, policy: str) -> None:
    token = owned.token(policy).reveal_text()

    def status(method: str, path: str, body: dict[str, Any] | None = None) -> int:
        path = path.format(kek=owned.kek())
        return owned.kit.raw(method, f"{owned.mount}/{path}", body, token)[0]

    for path, body in ALLOWED[policy]:
        assert status("POST", path, body) == 200, path
    for path, body in DENIED[policy]:
        assert status("POST", path, body) == 403, (path, body)
    for path in ("keys/{kek}", "keys/not-mine", f"keys/{MODEL_KEK}"):
        assert status("DELETE", path) == 403, path
    for path in ("export/encryption-key/{kek}", "backup/{kek}", "keys/not-mine"):
        assert status("GET", path) == 403, path


def test_storage_cannot_have_another_datasets_kek_shredded(
    owned: Owned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may shred both would destroy the wrong one, and think that this one is gone."""
    data = owned.seal(tmp_path / "data")
    keys = data / KEYS_FILE
    keys.write_text(keys.read_text().replace(owned.kek(), owned.kek("other")))
    monkeypatch.setenv("VAULT_ADDR", owned.kit.server.address)
    monkeypatch.setenv("VAULT_CACERT", str(owned.kit.server.ca_file))
    monkeypatch.setenv("VAULT_TOKEN", owned.token("st-shred").reveal_text())
    with owned.custodian("other") as kek:
        before = kek.versions()
        assert main(["shred", str(data), "--confirm", owned.kek("other")]) == ExitCode.INTEGRITY
        assert kek.versions() == before
