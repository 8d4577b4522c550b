"""TLS towards a server that must prove who it is: by CAs that are given, or by the system's."""

from __future__ import annotations

import ssl


def client_context(ca_pem: str | None) -> ssl.SSLContext:
    """Trust in exactly the given CAs, or in the system's if there are none; TLS 1.2 at least.

    Not `ssl.create_default_context`, which writes session keys to the file that SSLKEYLOGFILE
    names. Raises ValueError if `ca_pem` holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    # Between certificates stand comments in any language; text for OpenSSL must be ASCII.
    text = ca_pem.encode("ascii", errors="replace").decode()
    try:
        context.load_verify_locations(cadata=text)
    except ssl.SSLError as error:
        raise ValueError(f"no certificate in PEM ({error.reason})") from None
    return context
