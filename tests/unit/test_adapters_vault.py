"""What the check of a model KEK calls its failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from securetrain.errors import (
    SecuretrainError,
    VaultClockSkew,
    VaultDenied,
    VaultMisconfigured,
    VaultRedirects,
    VaultSealed,
)
from securetrain_operator.adapters.vault import VaultBroker
from support.world import settings


class FailingBroker(VaultBroker):
    """Logs in, and fails to make a model key."""

    fault: SecuretrainError

    def _login(self, *_: Any, **__: Any) -> Any:
        return Path("/dev/null").open()

    def _new_model_key(self, *_: Any, **__: Any) -> NoReturn:
        raise self.fault


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (VaultDenied("403"), "OutputKekUnusable"),
        (VaultMisconfigured("no such key"), "OutputKekUnusable"),
        (VaultRedirects("307"), "VaultRedirects"),
        (VaultClockSkew("expired"), "VaultClockSkew"),
        (VaultSealed("sealed"), "VaultSealed"),
    ],
)
async def test_only_what_is_wrong_with_a_kek_is_blamed_on_it(
    fault: SecuretrainError, reason: str, tmp_path: Path
) -> None:
    broker = FailingBroker(tmp_path / "token")
    broker.fault = fault
    with pytest.raises(SecuretrainError) as found:
        await broker.check(settings().vault_connections[0], "team-a", "team-a-models")
    assert found.value.reason == reason
