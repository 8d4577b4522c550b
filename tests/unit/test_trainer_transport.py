"""What the way to the gateway does before a request goes out."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from localcluster.pki import Authority
from securetrain_trainer.transport import NotSent, Peer

RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class ResetPeer(Peer):
    """A server that resets each connection as soon as it is there, as one that dies does."""

    def _dial(self, deadline: float) -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            dialled = socket.create_connection(listener.getsockname(), timeout=deadline)
            accepted, _ = listener.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            accepted.close()
        return dialled


def test_a_connection_that_is_reset_before_its_handshake_is_told_as_not_sent(
    tmp_path: Path,
) -> None:
    """And is closed: what a collector finds open is an error here."""
    ca_pem = Authority(tmp_path, "ca").certificate.read_text()
    pinned = Peer.pinned("https://gateway:1", ca_pem)
    peer = ResetPeer(pinned.host, pinned.port, pinned.tls)
    with pytest.raises(NotSent):
        peer.post("/v1/grants", b"{}", {}, deadline=5)
