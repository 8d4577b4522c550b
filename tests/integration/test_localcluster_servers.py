"""The servers that all other integration tests stand on."""

from __future__ import annotations

from localcluster.kubectl import Kubectl
from localcluster.openbao import OpenBao


def test_openbao_seals_and_unseals(openbao: OpenBao) -> None:
    openbao.seal()
    assert openbao.sealed
    openbao.unseal()
    assert not openbao.sealed
    openbao.api("GET", "/v1/sys/mounts")
    assert "sys/mounts" in openbao.audit_log.read_text()


def test_the_control_plane_makes_service_accounts(kubectl: Kubectl) -> None:
    assert "serviceaccount/default" in kubectl("get", "sa", "-o", "name")
