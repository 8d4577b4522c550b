"""Addresses of sealed folders, storage connections and their logins."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from securetrain.errors import InvalidInput, StorageMisconfigured
from securetrain.storage.connection import StorageConnection
from securetrain.storage.credentials import read_credentials
from securetrain.storage.uri import StorageUri, parse_uri

PARTS = st.from_regex(r"[A-Za-z0-9_=][A-Za-z0-9._=-]{0,20}", fullmatch=True)
PLACES = st.from_regex(r"[a-z0-9]([a-z0-9-]{1,20}|[a-z0-9]\.[a-z0-9])[a-z0-9]", fullmatch=True)


@given(st.sampled_from(["pvc", "s3"]), PLACES, st.lists(PARTS, max_size=4).map("/".join))
def test_an_address_is_what_it_says(scheme: str, place: str, path: str) -> None:
    text = f"{scheme}://{place}" + (f"/{path}" if path else "")
    uri = parse_uri(text)
    assert (uri.scheme, uri.place, uri.path) == (scheme, place, path)
    assert str(uri) == text


PIECES = st.sampled_from(["data", "/", "..", ".", "-", "a", "//", "%2e", "@", ":", "\n", "ä"])


@given(st.text(max_size=40) | st.lists(PIECES, max_size=8).map("".join))
def test_whatever_is_taken_leads_nowhere_else(text: str) -> None:
    for candidate in (text, f"s3://{text}", f"pvc://{text}", f"s3://data/{text}"):
        try:
            uri = parse_uri(candidate)
        except InvalidInput:
            continue
        assert str(uri) == candidate
        for part in (uri.place, *filter(None, uri.path.split("/"))):
            assert part
            assert not part.startswith((".", "-"))
            assert part.isascii()
            assert not set(part) & set(" \n%:?#")


@pytest.mark.parametrize(
    "text",
    [
        "s3://b/../x", "s3://b//x", "s3://b/x/", "s3://bb", "s3://Bucket/x", "s3://bu..cket/x",
        "s3://bucket/.hidden", "s3://bucket/-rf", "s3://bucket/a b", "s3://bucket/a%2e", "s3:///x",
        "s3://bucket/x\n", "gs://bucket/x", "bucket/x", "", "pvc://claim/../x", "pvc://a_b/x",
        f"s3://bucket/{'x' * 201}", "s3://bucket" + "/abcdefghi" * 60, "s3://user@bucket/x",
        "s3://bucket:9000/x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_fields_name(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"pvc://<claim>/<path> or s3://") as refused:
        parse_uri(text, "output.uri")
    assert refused.value.field == "output.uri"


def test_only_one_of_the_two_lies_on_a_claim() -> None:
    assert StorageUri("pvc", "models", "m").on_claim
    assert not StorageUri("s3", "models", "m").on_claim


WHOLE = {
    "name": "minio",
    "endpoint": "https://minio.example.org:9000",
    "credentialsSecret": "s3-login",
    "allowedNamespaces": ["team-a"],
    "egressCidrs": ["192.0.2.9/32"],
}


def test_a_connection_is_used_by_those_that_it_names() -> None:
    connection = StorageConnection.model_validate(WHOLE)
    assert connection.region == "us-east-1"
    assert connection.allows("team-a")
    assert not connection.allows("team-b")
    told = connection.told("/login")
    assert (told.endpoint, told.credentials) == (WHOLE["endpoint"], "/login")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("endpoint", "http://minio.example.org:9000"),
        ("endpoint", "https://minio.example.org/path"),
        ("endpoint", "https://user:secret@minio.example.org"),
        ("region", "US East"),
        ("ca", ""),
        ("credentialsSecret", "../login"),
        ("credentialsSecret", None),
        ("egressCidrs", ["192.0.2.9/8"]),
        ("accessKey", "must-not-stand-here"),
    ],
)
def test_a_connection_with_a_wrong_field_is_refused(field: str, value: object) -> None:
    changed = {key: item for key, item in (WHOLE | {field: value}).items() if item is not None}
    with pytest.raises(ValidationError):
        StorageConnection.model_validate(changed)


def test_a_login_is_read_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("the-key-id\n")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("the-secret-key")
    found = read_credentials(tmp_path)
    assert found.access_key_id.reveal_text() == "the-key-id"
    assert found.secret_access_key.reveal_text() == "the-secret-key"
    assert found.session_token is None
    (tmp_path / "AWS_SESSION_TOKEN").write_text("the-token")
    found = read_credentials(tmp_path)
    assert found.session_token is not None
    for secret in ("the-key-id", "the-secret-key", "the-token"):
        assert secret not in repr(found) + str(found)


def test_a_login_without_a_key_is_told_by_the_keys_name(tmp_path: Path) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("the-key-id")
    with pytest.raises(StorageMisconfigured, match="AWS_SECRET_ACCESS_KEY") as told:
        read_credentials(tmp_path)
    assert "the-key-id" not in str(told.value)
