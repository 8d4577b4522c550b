"""The gateway's certificate: served from memory, renewed in place, waited for meanwhile."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from securetrain.errors import VaultUnavailable
from securetrain.secret import Secret
from securetrain.vault.pki import IssuedCertificate
from securetrain_operator.adapters.clock import SystemClock
from securetrain_operator.certificates import ServingCertificate

NAME = "gateway.securetrain.svc"


def self_signed(life: float) -> IssuedCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(seconds=life)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM).decode()
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return IssuedCertificate(pem, Secret(key_pem), pem, end.timestamp())


class Issuer:
    """Issues what it was given, in order; an exception is raised."""

    def __init__(self, *answers: IssuedCertificate | Exception) -> None:
        self.answers = list(answers)

    async def __call__(self) -> IssuedCertificate:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def serial_seen(port: int, ca_pem: str, name: str | None) -> int:
    context = ssl.create_default_context(cadata=ca_pem)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = name is not None
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name or ""
    )
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return x509.load_der_x509_certificate(der).serial_number


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 what is waited for has no event
            await asyncio.sleep(0.02)


async def test_it_waits_for_vault_then_serves_and_renews_without_a_new_listener() -> None:
    first, second = self_signed(6), self_signed(1000)
    issuer = Issuer(VaultUnavailable("away"), first, second)
    serving = ServingCertificate(issuer, SystemClock())
    assert not serving.valid
    with pytest.raises(VaultUnavailable, match="no certificate yet"):
        serving.gateway_ca()
    server = await asyncio.start_server(
        lambda _r, w: w.close(), "127.0.0.1", 0, ssl=serving.context
    )
    port = server.sockets[0].getsockname()[1]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await serial_seen(port, first.ca_pem, NAME)

    descriptors = len(os.listdir("/proc/self/fd"))
    task = asyncio.create_task(serving.run())
    try:
        await until(lambda: serving.valid)
        assert serving.gateway_ca() == first.ca_pem
        for name in (NAME, None):  # with and without a server name in the handshake
            assert await serial_seen(port, first.ca_pem, name) == serial_of(first)
        await until(lambda: not issuer.answers)
        await until(lambda: serving.gateway_ca() == second.ca_pem)
        assert await serial_seen(port, second.ca_pem, NAME) == serial_of(second)
    finally:
        task.cancel()
        server.close()
        await asyncio.gather(task, server.wait_closed(), return_exceptions=True)
    assert len(os.listdir("/proc/self/fd")) <= descriptors


async def test_an_ended_certificate_is_not_ready() -> None:
    serving = ServingCertificate(Issuer(self_signed(-1), VaultUnavailable("away")), SystemClock())
    task = asyncio.create_task(serving.run())
    await until(lambda: bool(serving._current))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not serving.valid


async def test_a_key_of_another_certificate_is_refused_and_never_written_to_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    good, other = self_signed(100), self_signed(100)
    mixed = IssuedCertificate(good.chain_pem, other.key, good.ca_pem, good.not_after)
    issuer = Issuer(mixed, VaultUnavailable("away"))
    serving = ServingCertificate(issuer, SystemClock())
    task = asyncio.create_task(serving.run())
    await until(lambda: "do not fit together" in caplog.text)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not serving.valid
    assert "PRIVATE KEY" not in caplog.text
    assert os.listdir(tmp_path) == []


def serial_of(certificate: IssuedCertificate) -> int:
    return x509.load_pem_x509_certificate(certificate.chain_pem.encode()).serial_number
