"""Our S3 client on servers that fail, or mean harm."""

from __future__ import annotations

import secrets
import ssl
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from securetrain.api.gateway import ObjectStorage
from securetrain.errors import (
    BadConfiguration,
    ManifestInvalid,
    SecuretrainError,
    StorageDenied,
    StorageFull,
    StorageMisconfigured,
    StorageUnavailable,
)
from securetrain.secret import Secret
from securetrain.storage import s3, s3_client
from securetrain.storage.credentials import Credentials
from securetrain.storage.objects import StoredObject
from securetrain.storage.s3 import S3Store, open_store
from securetrain.storage.uri import parse_uri
from support.buckets import refused
from support.tls_server import Reply, Request, TlsServer, answer

TOKEN = "a-session-token-that-nobody-else-may-see"


def scripted(server: TlsServer, **changes: Any) -> AbstractContextManager[S3Store]:
    """A store at a scripted server, with a session token."""
    known = {"name": "scripted", "endpoint": server.url, "region": "us-east-1", "ca": server.ca_pem}
    keys = Credentials(Secret(b"access-key"), Secret(b"secret-key"), Secret.from_text(TOKEN))
    return open_store(
        ObjectStorage(**known, credentials="/none"), keys, parse_uri("s3://bucket/p"), **changes
    )


@pytest.mark.parametrize("status", [301, 307])
def test_no_redirect_is_followed(tmp_path: Path, status: int) -> None:
    """A redirect would carry the session token to wherever it points."""
    (tmp_path / "one").mkdir()
    with TlsServer(tmp_path / "one", [answer(200)]) as trap:
        reply = answer(status, Location=f"{trap.url}/bucket/p/dataset.json")
        with TlsServer(tmp_path / "one", [reply]) as server, scripted(server) as store:
            for error in refused(store, "read", "list", "copy"):
                assert type(error) is StorageMisconfigured
                assert "elsewhere" in error.message
            assert server.requests
        assert trap.requests == []


ERROR = b"<Error><Code>AccessDenied</Code><Message>your secret-key is secret-key</Message></Error>"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", StorageDenied),
        (403, "RequestTimeTooSkewed", StorageDenied),
        (400, "ExpiredToken", StorageDenied),
        (400, "InvalidRequest", StorageMisconfigured),
        (507, "InsufficientStorage", StorageFull),
        (403, "QuotaExceeded", StorageFull),
        (429, "TooManyRequests", StorageUnavailable),
        (409, "ConditionalRequestConflict", StorageUnavailable),
        (500, "InternalError", StorageUnavailable),
        (501, "NotImplemented", StorageMisconfigured),
        (503, "SlowDown", StorageUnavailable),
    ],
)
def test_what_a_server_answers_becomes_an_error_that_quotes_nothing(
    tmp_path: Path, status: int, code: str, kind: type[SecuretrainError]
) -> None:
    body = ERROR.replace(b"AccessDenied", code.encode())
    with TlsServer(tmp_path, [answer(status, body)]) as server, scripted(server) as store:
        (error,) = refused(store, "list")
    assert type(error) is kind
    assert f"answered {status}" in error.message
    for secret in ("secret-key", TOKEN, "access-key", "your"):
        assert secret not in str(error)


def test_nothing_is_asked_of_anybody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No metadata service, no profile, no proxy, no other endpoint, and never without a login."""
    (tmp_path / "tls").mkdir()
    with TlsServer(tmp_path / "tls", [answer(200)]) as trap:
        (tmp_path / "config").write_text(f"[default]\nendpoint_url = {trap.url}\n")
        for name, value in {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": trap.url,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": trap.url,
            "AWS_ENDPOINT_URL": trap.url,
            "AWS_ENDPOINT_URL_S3": trap.url,
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_ACCESS_KEY_ID": "of-the-environment",
            "AWS_SECRET_ACCESS_KEY": "of-the-environment",
            "AWS_SESSION_TOKEN": "of-the-environment",
            "AWS_CA_BUNDLE": str(tmp_path / "none"),
            "HTTPS_PROXY": trap.url,
            "https_proxy": trap.url,
            "FSSPEC_S3_ANON": "true",
            "FSSPEC_S3_ENDPOINT_URL": trap.url,
        }.items():
            monkeypatch.setenv(name, value)
        with TlsServer(tmp_path / "tls", [answer(403)]) as server, scripted(server) as store:
            refused(store, "list", "read")
            for request in server.requests:
                signed = request.headers["authorization"]
                assert signed.startswith("AWS4-HMAC-SHA256 Credential=access-key/")
                assert request.headers["x-amz-security-token"] == TOKEN
        assert trap.requests == []


def raw(first: str, *headers: str, body: bytes = b"") -> Reply:
    """An answer as it is written here."""
    data = "\r\n".join([f"HTTP/1.1 {first}", *headers, "Connection: close", "", ""]).encode()

    def reply(_request: Request, secure: ssl.SSLSocket) -> None:
        secure.sendall(data + body)

    return reply


def test_an_answer_that_is_cut_is_asked_for_again(tmp_path: Path) -> None:
    data, size = secrets.token_bytes(1000), "Content-Length: 1000"
    replies = [
        raw("200 OK", size, 'ETag: "e"'),
        raw("206 Partial Content", size, body=data[:-3]),
        raw("206 Partial Content", size, body=data),
    ]
    with TlsServer(tmp_path, replies) as server:
        with scripted(server) as store:
            assert store.read("dataset.json", 1000) == data
        assert len(server.requests) == 3


def test_a_server_that_stays_away_is_waited_for_as_long_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_PAUSE", 0.01)
    away, listing = answer(503), b"<ListBucketResult></ListBucketResult>"
    replies = [away] * 12 + [answer(200, listing)]
    with TlsServer(tmp_path, replies) as server:
        with scripted(server) as store, pytest.raises(StorageUnavailable):
            store.list(limit=1)
        assert len(server.requests) < 12
        with scripted(server, patience=30.0) as store:
            assert store.list(limit=1) == []


def test_two_that_write_at_once_are_judged_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """409 says that neither condition was judged, not that one of them failed."""
    monkeypatch.setattr(s3, "FIRST_PAUSE", 0.01)
    body = ERROR.replace(b"AccessDenied", b"ConditionalRequestConflict")
    replies = [answer(409, body), answer(409, body), answer(200, ETag='"e"')]
    with TlsServer(tmp_path, replies) as server, scripted(server, patience=30.0) as store:
        assert store.create("key.json", b"x")


def test_more_than_was_asked_for_is_not_taken(tmp_path: Path) -> None:
    """An object of 10 bytes, and an answer to its range of 200 MiB."""
    sent = 0

    def flood(_request: Request, secure: ssl.SSLSocket) -> None:
        nonlocal sent
        secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 209715200\r\n\r\n")
        while sent < 200 << 20:
            secure.sendall(bytes(1 << 16))
            sent += 1 << 16

    with TlsServer(tmp_path, [raw("200 OK", "Content-Length: 10", 'ETag: "e"'), flood]) as server:
        with scripted(server) as store, pytest.raises(ManifestInvalid, match="changed while"):
            store.read("dataset.json", 10)
        asked = server.requests[1].headers
    assert (asked["range"], asked["if-match"]) == ("bytes=0-9", '"e"')
    assert sent < 32 << 20  # what the buffers of the connection hold


ITEM = "<Contents><Key>p/a</Key><Size>1</Size><ETag>e</ETag></Contents>"
MORE = "<IsTruncated>true</IsTruncated>"
NEXT = "<NextContinuationToken>t</NextContinuationToken>"
LISTS = {
    "more, and nothing": MORE + NEXT,
    "the same page for ever": MORE + NEXT + ITEM,
    "no way to the next page": MORE + ITEM,
    "no tag": ITEM.replace("<ETag>e</ETag>", ""),
    "no size": ITEM.replace("<Size>1</Size>", ""),
    "a size that is no number": ITEM.replace(">1<", ">one<"),
    "a negative size": ITEM.replace(">1<", ">-1<"),
    "another's object": ITEM.replace("p/a", "q/a"),
}


@pytest.mark.parametrize("harm", LISTS)
def test_a_list_that_is_none_is_no_whole_answer(tmp_path: Path, harm: str) -> None:
    body = f"<ListBucketResult>{LISTS[harm]}</ListBucketResult>".encode()
    with TlsServer(tmp_path, [answer(200, body)]) as server, scripted(server) as store:
        with pytest.raises(StorageUnavailable, match="no whole answer") as caught:
            store.list(limit=100)
        assert len(server.requests) <= 2
    assert caught.value.__context__ is None


@pytest.mark.parametrize("headers", [("Content-Length: 10",), ('ETag: "e"',)])
def test_an_object_without_tag_or_size_is_no_whole_answer(
    tmp_path: Path, headers: tuple[str, ...]
) -> None:
    with TlsServer(tmp_path, [raw("200 OK", *headers)]) as server, scripted(server) as store:
        for error in refused(store, "has", "read"):
            assert type(error) is StorageUnavailable
            assert "no whole answer" in error.message


def test_an_answer_without_end_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "MAX_ANSWER", 1000)
    body = b"<ListBucketResult></ListBucketResult>" + b" " * 1000
    with TlsServer(tmp_path, [answer(200, body)]) as server, scripted(server) as store:
        (error,) = refused(store, "list")
    assert type(error) is StorageUnavailable


def test_what_an_upload_failed_with_is_told_though_its_parts_may_not_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART", 10)
    begun = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"

    def reply(request: Request, secure: ssl.SSLSocket) -> None:
        status, body = (507, b"") if "partNumber" in request.path else (403, ERROR)
        status, body = (200, begun) if "uploads" in request.path else (status, body)
        answer(status, body)(request, secure)

    (tmp_path / "file").write_bytes(bytes(25))
    with TlsServer(tmp_path, [reply]) as server, scripted(server) as store:
        for write in (
            lambda: store.write("weights", bytes(25)),
            lambda: store.write_file("weights", tmp_path / "file"),
        ):
            with pytest.raises(StorageFull, match="answered 507"):
                write()
        assert "uploadId=u" in server.requests[-1].path
        assert "partNumber" not in server.requests[-1].path


def test_a_copy_may_take_longer_than_other_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "READ_SECONDS", 0.2)
    made = b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>"

    def slow(request: Request, secure: ssl.SSLSocket) -> None:
        time.sleep(0.5)
        answer(200, made)(request, secure)

    with TlsServer(tmp_path, [slow]) as server, scripted(server) as store:
        assert store.copy(StoredObject("a", 1, '"b"'), "c") == StoredObject("c", 1, '"e"')


def test_a_file_that_vanishes_before_it_is_sent_is_named_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shard"

    def vanish(path: Path) -> int:
        path.unlink()
        return s3.PART

    monkeypatch.setattr(s3, "_part_size", vanish)
    again = SimpleNamespace(
        monotonic=time.monotonic, sleep=lambda _seconds: pytest.fail("it was tried again")
    )
    monkeypatch.setattr("securetrain.storage.s3.time", again)  # not for other threads
    file.write_bytes(b"x")
    with TlsServer(tmp_path, [answer(200)]) as server, scripted(server, patience=30.0) as store:
        with pytest.raises(BadConfiguration, match=r"shard cannot be read \(No such file"):
            store.write_file("shard", file)
        assert server.requests == []
