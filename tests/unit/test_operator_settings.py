"""The operator's settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localcluster.pki import Authority
from securetrain.api.names import Purpose
from securetrain.api.types import MAX_GRANTS
from securetrain.errors import InvalidInput
from securetrain_operator import settings

BASE = f"""
namespace: securetrain
audience: securetrain
trainerImage: registry.example.org/trainer@sha256:{"a" * 64}
gatewayUrl: https://securetrain-gateway.securetrain.svc:8443
gatewayNames: [securetrain-gateway.securetrain.svc]
"""


def load(tmp_path: Path, more: str = "") -> settings.Settings:
    file = tmp_path / "settings.yaml"
    ca = json.dumps(Authority(tmp_path / "ca", "ca").certificate.read_text())
    connections = f'vaultConnections: [{{address: "https://vault:8200", ca: {ca}}}]\n'
    file.write_text(BASE + connections + more)
    return settings.load(file)


def test_a_status_has_room_for_every_grant(tmp_path: Path) -> None:
    most = MAX_GRANTS // len(Purpose)
    assert load(tmp_path, f"maxGrantsPerPhase: {most}").max_grants_per_phase == most
    with pytest.raises(InvalidInput, match=f"maxGrantsPerPhase: {most + 1}"):
        load(tmp_path, f"maxGrantsPerPhase: {most + 1}")


@pytest.mark.parametrize("wrong", ["localhost", "127.0.0.1:8443", "127.0.0.0/8", "300.0.0.1", ""])
def test_only_an_ip_address_is_listened_on(tmp_path: Path, wrong: str) -> None:
    for right in ("127.0.0.2", "::1"):
        assert load(tmp_path, f'listenAddress: "{right}"').listen_address == right
    with pytest.raises(InvalidInput, match=f"listenAddress: '{wrong}' .*IP address"):
        load(tmp_path, f'listenAddress: "{wrong}"')


def test_a_misspelt_setting_is_named_before_the_one_that_is_then_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="audiense: 'x' is not valid \\(unknown field\\)"):
        load(tmp_path, "audiense: x")
