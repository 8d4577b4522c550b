"""The servers that all other integration tests stand on."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from localcluster.kubectl import Kubectl
from localcluster.openbao import OpenBao
from support.s3_server import S3Server


def test_openbao_seals_and_unseals(openbao: OpenBao) -> None:
    openbao.seal()
    assert openbao.sealed
    openbao.unseal()
    assert not openbao.sealed
    openbao.api("GET", "/v1/sys/mounts")
    assert "sys/mounts" in openbao.audit_log.read_text()


def test_the_control_plane_makes_service_accounts(kubectl: Kubectl) -> None:
    assert "serviceaccount/default" in kubectl("get", "sa", "-o", "name")


def test_the_s3_server_keeps_objects_and_its_conditions(s3_server: S3Server) -> None:
    bucket, client = s3_server.bucket(), s3_server.client
    put = {"Bucket": bucket, "Key": "a/b", "Body": b"x", "IfNoneMatch": "*"}
    client.put_object(**put, Metadata={"sha256": "0f"})
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**put)
    assert client.head_object(Bucket=bucket, Key="a/b")["Metadata"] == {"sha256": "0f"}
    assert s3_server.names(bucket) == {"a/b"}
