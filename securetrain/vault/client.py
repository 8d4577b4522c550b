"""The only way to Vault, and the only user of hvac.

Only hvac's lowest layer is used: its `Client` reads tokens from the environment and its
exceptions quote Vault's answers. One VaultClient serves one login and one thread of work, so that
one job's request can never carry another job's token.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final, Self

from hvac.adapters import RawAdapter

from securetrain.errors import InvalidInput, VaultDenied
from securetrain.secret import Secret
from securetrain.vault import transport
from securetrain.vault.answers import VaultAnswer, is_policy_denial, parse
from securetrain.vault.transport import RawAnswer

DEADLINE: Final = 10.0
"""Seconds for one call, from name resolution to the answer's last byte."""
MAX_CONNECT: Final = 5.0
MAX_WRAP_TTL: Final = 3600

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+")
_ADDRESS: Final = re.compile(r"https://[A-Za-z0-9.\-\[\]:]+")
_CORRELATION: Final = re.compile(r"[A-Za-z0-9/_-]{1,256}")


class VaultClient:
    """A connection to Vault under at most one token.

    Every call raises VaultSealed, VaultUnavailable (with `in_doubt`), VaultDenied, WrongKey,
    GrantLost or VaultMisconfigured; no error holds Vault's text, a token or what was sent.

    Args:
        address: `https://host:port`.
        ca_pem: the CAs to trust, PEM; None for the system's.
        token: a token to use; never taken from the environment.
        deadline: seconds that one call may take in all.
    """

    def __init__(
        self,
        address: str,
        ca_pem: str | None,
        *,
        token: Secret | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        if not _ADDRESS.fullmatch(address.rstrip("/")):
            raise InvalidInput(
                "Vault's address", address, "is not https://host:port", fix="use TLS and no path"
            )
        self._deadline = deadline
        self._session = transport.session(ca_pem)
        self._adapter = RawAdapter(
            base_uri=address.rstrip("/"),
            token=token.reveal_text() if token else None,
            session=self._session,
            allow_redirects=False,
            timeout=(min(MAX_CONNECT, deadline / 2), deadline),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VaultClient({self._adapter.base_uri!r})"

    def close(self) -> None:
        """Forget the token and close the connection."""
        self._adapter.token = None
        self._session.close()

    def login_jwt(self, mount: str, role: str, jwt: Secret) -> None:
        """Log in by a JWT; later calls carry the token that Vault answers.

        Raises VaultDenied if Vault does not accept the token; ValueError if there was a login
        already.
        """
        if self._adapter.token:
            raise ValueError("a VaultClient logs in once")
        body = {"role": checked_segment("role", role), "jwt": jwt.reveal_text()}
        answer = self.write(f"auth/{mount}/login", body)
        if answer.login is None:
            raise VaultDenied(f"Vault gave no token for role {role}", fix="check the auth mount")
        self._adapter.token = answer.login.reveal_text()

    def read(self, path: str) -> VaultAnswer:
        """GET; raises VaultMisconfigured if there is nothing."""
        return parse(self._exchange("get", path), path)

    def find(self, path: str) -> VaultAnswer | None:
        """GET; None if there is nothing, be it the item or its mount."""
        answer = self._exchange("get", path)
        return None if answer.status == 404 else parse(answer, path)

    def list(self, path: str) -> tuple[str, ...]:
        """LIST; names, none if there is nothing."""
        answer = self._exchange("list", path)
        data = None if answer.status == 404 else parse(answer, path).data
        return tuple(str(key) for key in (data or {}).get("keys", ()))

    def write(
        self,
        path: str,
        data: Mapping[str, Any],
        *,
        wrap_ttl: int | None = None,
        correlation: str | None = None,
        warnings_ok: bool = False,
    ) -> VaultAnswer:
        """POST.

        Args:
            path: without `/v1/`; each segment of letters, digits, `_` and `-`.
            data: the body.
            wrap_ttl: seconds; asks for a wrapped answer. The caller checks that it is one.
            correlation: kept in clear by Vault's audit log.
            warnings_ok: take an answer with warnings, which else is an error.
        """
        if wrap_ttl is not None and (type(wrap_ttl) is not int or not 0 < wrap_ttl <= MAX_WRAP_TTL):
            # Vault takes 0 for "do not wrap" and answers the plaintext.
            raise InvalidInput("wrap_ttl", wrap_ttl, "is not in 1…3600 seconds", fix="use 30")
        if correlation is not None and not _CORRELATION.fullmatch(correlation):
            raise InvalidInput("correlation", correlation, "is malformed", fix="see api.names")
        headers = transport.headers(wrap_ttl, correlation)
        answer = self._exchange("post", path, data, headers)
        return parse(answer, path, warnings_ok=warnings_ok)

    def delete(self, path: str) -> None:
        """DELETE; absence is no error."""
        answer = self._exchange("delete", path)
        if answer.status != 404:
            parse(answer, path)

    def denied_by_policy(self, path: str) -> bool:
        """GET; True if the token is valid and its policy denies the path.

        A single-use token is spent by that.
        """
        answer = self._exchange("get", path)
        if answer.status != 403:
            parse(answer, path)
        return is_policy_denial(answer)

    def _exchange(
        self,
        method: str,
        path: str,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RawAnswer:
        url = "/v1/" + checked_path(path)
        deadline = time.monotonic() + self._deadline

        def call() -> RawAnswer:
            response = self._adapter.request(
                method,
                url,
                headers=dict(headers or transport.headers(None, None)),
                raise_exception=False,
                json=data,
                stream=True,
                verify=True,
            )
            with response:
                return transport.read_bounded(response, deadline)

        return transport.within(self._deadline, call)


def checked_path(path: str) -> str:
    """The path if each segment is safe: hvac itself would resolve `..` and pass `?` on."""
    for segment in path.split("/"):
        checked_segment("Vault path", segment)
    return path


def checked_segment(field: str, segment: str) -> str:
    """One segment of a Vault path; raises InvalidInput unless it is letters, digits, `_`, `-`."""
    if not _SEGMENT.fullmatch(segment):
        raise InvalidInput(
            field, segment, "is not a safe part of a path", fix="use letters, digits, _ and -"
        )
    return segment
