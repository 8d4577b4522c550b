"""The pod's calls to the key gateway, over real TLS."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from securetrain.api.gateway import (
    Endpoint,
    GrantRequest,
    GrantResponse,
    KeyGrant,
    ProgressReport,
    ResultsRequest,
    RunSpec,
)
from securetrain.api.names import Purpose, Split
from securetrain.errors import (
    BadConfiguration,
    GatewayUnavailable,
    GrantLost,
    GrantTampered,
    InvalidInput,
    ManifestInvalid,
    NotOurPod,
    PolicyDenied,
    SecuretrainError,
    VaultSealed,
    WrongKey,
)
from securetrain.secret import Secret
from securetrain_trainer.gateway import Gateway
from securetrain_trainer.keys import GrantedKeys, grant_request
from securetrain_trainer.transport import InDoubt, NotSent, Peer
from support.tls_server import Reply, Request, TlsServer, answer
from support.trainer_kit import WRAPPED, dataset_of, run_spec, seal_dataset

RESULTS = ResultsRequest(purpose=Purpose.TRAIN, files=())
GRANTED = json.dumps({"keys": [], "wrappedModelKey": WRAPPED}).encode()


def problem(status: int, reason: str, detail: str = "no", **headers: str) -> Reply:
    body = {"title": "x", "status": status, "detail": detail, "reason": reason}
    return answer(status, json.dumps(body).encode(), **headers)


def cut(_request: Request, secure: ssl.SSLSocket) -> None:
    """Take the request and hang up."""
    secure.close()


class Waits:
    """A clock that a sleep moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("token-of-the-pod\n")
    return file


@pytest.fixture
def request_of(tmp_path: Path) -> GrantRequest:
    seal_dataset(tmp_path / "data")
    return grant_request(run_spec(tmp_path), dataset_of(tmp_path))


def gateway(server: TlsServer, token: Path, waits: Waits | None = None) -> Gateway:
    waits = waits or Waits()
    endpoint = Endpoint(url=server.url, ca=server.ca_pem)
    return Gateway(endpoint, token_file=token, sleep=waits.sleep, clock=lambda: waits.now)


def test_a_grant_carries_the_token_and_the_hashed_bytes(
    tmp_path: Path, token: Path, request_of: GrantRequest
) -> None:
    with TlsServer(tmp_path / "pki", [answer(200, GRANTED)]) as server:
        assert gateway(server, token).grant(request_of).wrapped_model_key == WRAPPED
    [sent] = server.requests
    assert sent.path == "/v1/grants"
    assert sent.headers["authorization"] == "Bearer token-of-the-pod"
    again = GrantRequest.model_validate_json(sent.body)
    assert again.policy == (tmp_path / "data" / "policy.json").read_bytes()
    assert set(again.keys) == {Split.TRAIN, Split.VALIDATION}


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (cut, GrantLost),
        (answer(500), GrantLost),
        (problem(409, "AlreadyGranted"), GrantLost),
        (problem(403, "NotOurPod"), NotOurPod),
        (problem(403, "PolicyDenied"), PolicyDenied),
        (answer(403, b"<html>"), NotOurPod),
        (problem(422, "ManifestInvalid"), ManifestInvalid),
        (problem(422, "InvalidInput"), BadConfiguration),
        (answer(200, b'{"keys":[{"token":"s.secret"}]}'), GrantTampered),
        (answer(302, b"", Location="https://elsewhere.test/"), SecuretrainError),
    ],
)
def test_a_grant_is_asked_for_once(
    tmp_path: Path, token: Path, request_of: GrantRequest, reply: Reply, error: type[Exception]
) -> None:
    with TlsServer(tmp_path / "pki", [reply, answer(200, GRANTED)]) as server:
        with pytest.raises(error) as caught:
            gateway(server, token).grant(request_of)
        assert len(server.requests) == 1
    assert "s.secret" not in str(caught.value)
    assert "token-of-the-pod" not in str(caught.value)


def test_a_gateway_that_asks_to_wait_is_waited_for(
    tmp_path: Path, token: Path, request_of: GrantRequest
) -> None:
    waits = Waits()
    replies = [
        problem(503, "VaultSealed", Retry_After="7"),
        problem(401, "NotOurPod"),
        answer(429, b"", Retry_After="1000000"),
        answer(200, GRANTED),
    ]
    with TlsServer(tmp_path / "pki", replies) as server:
        gateway(server, token, waits).grant(request_of)
    assert waits.slept == [7, 5, 60]


def test_patience_ends_with_the_last_reason(
    tmp_path: Path, token: Path, request_of: GrantRequest
) -> None:
    waits = Waits()
    with (
        TlsServer(tmp_path / "pki", [problem(503, "VaultSealed", Retry_After="60")]) as server,
        pytest.raises(VaultSealed) as caught,
    ):
        gateway(server, token, waits).grant(request_of)
    assert caught.value.exit_code == 11
    assert 600 <= sum(waits.slept) <= 660


def test_a_gateway_that_is_not_there_is_waited_for(
    tmp_path: Path, token: Path, request_of: GrantRequest
) -> None:
    waits = Waits()
    with TlsServer(tmp_path / "pki", [answer(200, GRANTED)]) as server:
        away = gateway(server, token, waits)
    with pytest.raises(GatewayUnavailable) as caught:
        away.grant(request_of)
    assert caught.value.exit_code == 11
    assert sum(waits.slept) >= 600


def test_another_server_gets_no_token(
    tmp_path: Path, token: Path, request_of: GrantRequest
) -> None:
    with (
        TlsServer(tmp_path / "theirs", [answer(200, GRANTED)]) as server,
        TlsServer(tmp_path / "ours", [answer(200, GRANTED)]) as ours,
    ):
        waits = Waits()
        endpoint = Endpoint(url=server.url, ca=ours.ca_pem)
        asking = Gateway(endpoint, token_file=token, sleep=waits.sleep, clock=lambda: waits.now)
        with pytest.raises(GatewayUnavailable):
            asking.grant(request_of)
    assert server.requests == []
    with TlsServer(tmp_path / "named", [answer(200, GRANTED)], host="other.test") as server:
        with pytest.raises(GatewayUnavailable):
            gateway(server, token).grant(request_of)
        assert server.requests == []


def test_results_are_repeated_until_they_are_taken(tmp_path: Path, token: Path) -> None:
    replies = [cut, answer(500), problem(503, "VaultUnavailable"), answer(200, b"{}")]
    with TlsServer(tmp_path / "pki", replies) as server:
        assert gateway(server, token).results(RESULTS).verdict is None
        assert len(server.requests) == 4


def test_progress_is_tried_once(tmp_path: Path, token: Path) -> None:
    report = ProgressReport(sequence=1, summary="epoch 1/2")
    with TlsServer(tmp_path / "pki", [answer(204), answer(503), cut]) as server:
        asking = gateway(server, token)
        asking.progress(report)
        for _ in range(2):
            with pytest.raises(GatewayUnavailable):
                asking.progress(report)
        assert len(server.requests) == 3


def test_the_token_is_read_anew_for_each_call(tmp_path: Path, token: Path) -> None:
    report = ProgressReport(sequence=1, summary="epoch 1/2")
    with TlsServer(tmp_path / "pki", [answer(204)]) as server:
        asking = gateway(server, token)
        asking.progress(report)
        token.write_text("renewed")
        asking.progress(report)
        assert server.requests[1].headers["authorization"] == "Bearer renewed"
        for bad in ("", "two words", "é"):
            token.write_text(bad)
            with pytest.raises(BadConfiguration):
                asking.progress(report)


def drip(_request: Request, secure: ssl.SSLSocket) -> None:
    for byte in b"HTTP/1.1 200 x\r\nContent-Length: 999999\r\n\r\n" + b"x" * 200:
        secure.sendall(bytes([byte]))
        time.sleep(0.05)


def endless(_request: Request, secure: ssl.SSLSocket) -> None:
    secure.sendall(b"HTTP/1.1 200 x\r\n\r\n")
    while True:
        secure.sendall(bytes(1 << 20))


@pytest.mark.parametrize("reply", [drip, endless])
def test_neither_a_dripping_nor_an_endless_answer_holds_the_pod(
    tmp_path: Path, reply: Reply
) -> None:
    with TlsServer(tmp_path / "pki", [reply]) as server:
        peer = Peer.pinned(server.url, server.ca_pem)
        start = time.monotonic()
        with pytest.raises(InDoubt):
            peer.post("/", b"", {}, deadline=4.0)
        assert time.monotonic() - start < 10


def test_proxies_and_redirects_of_the_environment_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    redirect = answer(307, b"", Location="https://elsewhere.test/")
    with TlsServer(tmp_path / "pki", [redirect]) as server:
        assert Peer.pinned(server.url, server.ca_pem).post("/", b"", {}, deadline=5).status == 307
        assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["http://a:1", "https://", "https://a:1/path", "https://a:1/?x"])
def test_only_https_without_a_path_is_a_gateway(url: str, tmp_path: Path) -> None:
    with TlsServer(tmp_path / "pki", [answer(204)]) as server, pytest.raises(InvalidInput):
        Peer.pinned(url, server.ca_pem)
    with pytest.raises(InvalidInput):
        Peer.pinned("https://a:1", "no certificate")
    with pytest.raises(NotSent):
        Peer.pinned("https://127.0.0.1:1", server.ca_pem).post("/", b"", {}, deadline=1)


# --- which keys, and are they the right ones ------------------------------------------------------


class Granting:
    """A gateway that grants the named keys."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.requests: list[GrantRequest] = []

    def grant(self, request: GrantRequest) -> GrantResponse:
        self.requests.append(request)
        keys = tuple(
            KeyGrant(name=name, token="s", creation_path="p", creation_time="t", ttl=30)
            for name in self.names
        )
        return GrantResponse(keys=keys, wrapped_model_key=WRAPPED)


def spender(
    deks: dict[Split, Secret], paths: dict[str, str]
) -> Callable[[str, str, KeyGrant, str], Secret]:
    def spend(address: str, ca: str, grant: KeyGrant, path: str) -> Secret:
        paths[grant.name] = path
        return Secret(bytes(32)) if grant.name == "model" else deks[Split(grant.name)]

    return spend


def acquire(root: Path, names: list[str], run: RunSpec, *, swap: bool = False) -> dict[str, Any]:
    root.mkdir(exist_ok=True)
    deks = seal_dataset(root / "data")
    if swap:
        deks[Split.TRAIN] = deks[Split.VALIDATION]
    granting, paths = Granting(names), dict[str, str]()
    keys = GrantedKeys(granting, spender(deks, paths)).acquire(run, dataset_of(root))
    return {"keys": keys, "paths": paths, "request": granting.requests[0]}


def test_each_purpose_asks_for_its_own_splits(tmp_path: Path) -> None:
    train = acquire(tmp_path / "a", ["train", "validation", "model"], run_spec(tmp_path / "a"))
    assert set(train["request"].keys) == {Split.TRAIN, Split.VALIDATION}
    assert train["paths"] == {
        "train": "transit/decrypt/digits",
        "validation": "transit/decrypt/digits",
        "model": "transit/decrypt/team-a-models",
    }
    certify = acquire(tmp_path / "b", ["test", "model"], run_spec(tmp_path / "b", Purpose.CERTIFY))
    assert set(certify["request"].keys) == {Split.TEST}


@pytest.mark.parametrize(
    "names",
    [
        ["train", "validation"],
        ["train", "validation", "test", "model"],
        ["train", "train", "validation", "model"],
        ["test", "model"],
    ],
)
def test_other_keys_than_asked_for_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(GrantTampered):
        acquire(tmp_path, names, run_spec(tmp_path))


def test_a_key_that_is_not_the_datasets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongKey, match="train") as caught:
        acquire(tmp_path, ["train", "validation", "model"], run_spec(tmp_path), swap=True)
    assert caught.value.exit_code == 12
