"""TLS towards servers: whom it trusts, and what it never writes."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from localcluster.pki import Authority
from securetrain.tls import client_context


@pytest.fixture(scope="module")
def ca_pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Authority(tmp_path_factory.mktemp("pki"), "ca").certificate.read_text()


def test_a_given_bundle_is_trusted_alone_whatever_language_its_comments_are_in(ca_pem: str) -> None:
    context = client_context(f"# Főtanúsítvány\n{ca_pem}\n# the end\n")
    assert context.cert_store_stats()["x509_ca"] == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize("bundle", ["", "none", "-----BEGIN CERTIFICATE-----\nő\n"])
def test_a_bundle_without_a_certificate_is_refused(bundle: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)certificate"):
        client_context(bundle)


def test_session_keys_are_not_written_though_the_environment_asks_for_it(
    ca_pem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert ssl.create_default_context(cadata=ca_pem).keylog_filename == str(tmp_path / "keys")
    assert client_context(ca_pem).keylog_filename is None
    assert client_context(None).keylog_filename is None
