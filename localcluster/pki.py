"""A small certificate authority for the servers of this machine."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Where a certificate and its private key are."""

    certificate: Path
    key: Path


class Authority:
    """A CA in a folder, made on first use, and the certificates that it issued there.

    Args:
        folder: holds `<name>.crt` and `<name>.key` of the CA and of everything it issues.
        name: file name and common name of the CA.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._pair = self._files(name)
        if not self._pair.certificate.exists():
            self._make(name)
        self._certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        key = load_pem_private_key(self._pair.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - narrows for the type checker
        self._key = key

    @property
    def certificate(self) -> Path:
        """The CA's certificate, PEM."""
        return self._pair.certificate

    def issue(
        self,
        name: str,
        *,
        common_name: str,
        organization: str = "",
        hosts: Sequence[str] = (),
    ) -> KeyPair:
        """A certificate for servers and clients alike, made on first use.

        Args:
            name: the file name.
            common_name: a client's user name.
            organization: a client's group.
            hosts: DNS names and IP addresses of a server.
        """
        pair = self._files(name)
        if pair.certificate.exists():
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(common_name, organization), key.public_key()).add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        if hosts:
            builder = builder.add_extension(_alternative_names(hosts), critical=False)
        builder = builder.issuer_name(self._certificate.subject).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
            critical=False,
        )
        write_private(pair.key, _private_pem(key))
        pair.certificate.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        )
        return pair

    def _make(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name, "")
        builder = self._builder(subject, key.public_key(), ca=True).issuer_name(subject)
        write_private(self._pair.key, _private_pem(key))
        self._pair.certificate.write_bytes(
            builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        )

    def _builder(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, ca: bool = False
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + _VALID)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_key_usage(ca=ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )

    def _files(self, name: str) -> KeyPair:
        return KeyPair(self._folder / f"{name}.crt", self._folder / f"{name}.key")


def signing_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """An RSA key for service account tokens, made on first use: (private, public) PEM files."""
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    if not public.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        write_private(private, _private_pem(key))
        public.write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    return private, public


def write_private(file: Path, data: bytes) -> None:
    """Writes a file that only its owner may read, from its first moment on."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        target.write(data)
    temporary.replace(file)


def _name(common_name: str, organization: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _alternative_names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_alternative_name(host) for host in hosts])


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
