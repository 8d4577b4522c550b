"""The pipe into a pod: frames of the exec websocket become bytes, or one clear error."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from websocket import ABNF, WebSocketConnectionClosedException, WebSocketTimeoutException

from securetrain.cli.transfer_pod import ExecPipe
from securetrain.errors import BadConfiguration, ClusterUnavailable

SUCCESS = json.dumps({"status": "Success"}).encode()
FAILURE = json.dumps({"status": "Failure", "reason": "NonZeroExitCode"}).encode()


class Socket:
    """A websocket that has received some frames."""

    def __init__(self, *frames: bytes | Exception) -> None:
        self._frames = list(frames)
        self.sent: list[bytes] = []

    def recv_data_frame(self, _control: bool) -> tuple[int, Any]:
        if not self._frames:
            return ABNF.OPCODE_CLOSE, SimpleNamespace(data=b"")
        frame = self._frames.pop(0)
        if isinstance(frame, Exception):
            raise frame
        return ABNF.OPCODE_BINARY, SimpleNamespace(data=frame)

    def send(self, data: bytes, *, opcode: int) -> None:
        assert opcode == ABNF.OPCODE_BINARY
        self.sent.append(data)


def test_bytes_come_as_they_are_wanted() -> None:
    pipe = ExecPipe(
        Socket(b"\x01abc", b"\x01", b"", b"\x02a warning\n", b"\x01defg", b"\x03" + SUCCESS)
    )
    assert (pipe.read(2), pipe.read(3), pipe.read(10)) == (b"ab", b"cde", b"fg")


def test_bytes_go_to_standard_input() -> None:
    socket = Socket()
    ExecPipe(socket).write(b"data")
    assert socket.sent == [b"\x00data"]


@pytest.mark.parametrize("status", [FAILURE, b"no JSON", b"[]"])
def test_a_process_that_failed_says_its_last_word(status: bytes) -> None:
    said = b"\x02Traceback\nModuleNotFoundError: No module named securetrain.storage\n"
    with pytest.raises(BadConfiguration, match="No module named securetrain") as caught:
        ExecPipe(Socket(said, b"\x03" + status)).read(4)
    assert "trainer image of this version" in caught.value.fix


@pytest.mark.parametrize(
    "failure", [WebSocketConnectionClosedException(), WebSocketTimeoutException(), OSError()]
)
def test_a_broken_connection_is_told_as_one(failure: Exception) -> None:
    with pytest.raises(ClusterUnavailable, match="connection to the receiver's pod is broken"):
        ExecPipe(Socket(b"\x01a", failure)).read(4)
