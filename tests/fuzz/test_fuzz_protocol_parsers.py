"""What travels between pod, gateway, Vault and owner: any bytes give a value or one of our errors.

Each parser is called as its caller calls it, so that whatever else is raised would end a pod, a
request or a command as a bug.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.target import explains_itself
from securetrain.api.gateway import GrantRequest, GrantResponse, ProgressReport, ResultsRequest
from securetrain.api.names import RUN_SPEC_ENV
from securetrain.audit.chain import parse_line, split_lines, verify_chain
from securetrain.audit.reconcile import parse_vault_log
from securetrain.cli import main as cli
from securetrain.errors import ExitCode, SecuretrainError
from securetrain.signing import dsse
from securetrain.signing.bundle import MEDIA_TYPE, verify_bundle
from securetrain.signing.head import verify_head
from securetrain.signing.statement import parse_statement
from securetrain.vault.answers import parse
from securetrain.vault.transport import RawAnswer
from securetrain_operator.gateway import server
from securetrain_trainer.__main__ import take_run_spec
from securetrain_trainer.gateway import _parsed, error_of
from securetrain_trainer.transport import Answer
from support.altered_documents import documents
from support.trainer_kit import audit_text, run_spec

RELAXED = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""A busy machine is no failure."""
SHA = "a" * 64
B64 = base64.b64encode(b"some bytes").decode()
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
PEM = KEY.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
WRAPPED = {"mount": "transit", "kek": "k", "wrapped": "vault:v1:" + "A" * 80}
ENVELOPE = {
    "payload": B64,
    "payloadType": dsse.INTOTO_TYPE,
    "signatures": [{"sig": B64, "keyid": ""}],
}
BUNDLE = {
    "mediaType": MEDIA_TYPE,
    "verificationMaterial": {"publicKey": {"hint": SHA}, "tlogEntries": []},
    "dsseEnvelope": ENVELOPE,
}
STATEMENT = {
    "_type": dsse.STATEMENT_TYPE,
    "subject": [{"name": "m", "digest": {"sha256": SHA}}],
    "predicateType": "https://model_signing/signature/v1.0",
    "predicate": {
        "serialization": {"hash_type": "sha256", "ignore_paths": ["key.json", "model.sig"]},
        "resources": [{"name": "model.json", "algorithm": "sha256", "digest": SHA}],
        "https://securetrain.dev/certification/v1": {"verdict": "certified"},
    },
}
FILE = {"path": "model.json", "sha256": SHA, "bytes": 5}
METRIC = {"name": "accuracy", "value": "0.9"}
GRANT_REQUEST = {
    "purpose": "train",
    "datasetSha256": SHA,
    "dataset": {"name": "d", "id": "i", "records": 5},
    "policy": B64,
    "keys": {"train": WRAPPED, "validation": WRAPPED},
}
GRANT_RESPONSE = {
    "keys": [{"name": "train", "token": "t", "creationPath": "p", "creationTime": "c", "ttl": 30}],
    "wrappedModelKey": "w",
}
RESULTS = {"purpose": "certify", "files": [FILE], "metrics": [METRIC], "plaintextSha256": SHA}
PROGRESS = {"sequence": 1, "summary": "s", "percentage": 5, "metrics": [METRIC]}
VAULT_ANSWER = {
    "data": {"plaintext": B64},
    "wrap_info": {
        "token": "t", "accessor": "a", "ttl": 30, "creation_time": "c", "creation_path": "p",
    },
    "auth": {"client_token": "t"},
    "warnings": None,
}  # fmt: skip
VAULT_LOG = {
    "type": "response",
    "time": "2030-01-01T00:00:00Z",
    "auth": {"accessor": "a", "policies": ["p"], "client_token": "t"},
    "request": {
        "path": "transit/decrypt/k",
        "headers": {"x-correlation-id": ["stj/u/1/a"]},
        "data": {"token": "t"},
        "remote_address": "10.0.0.1",
    },
    "response": {"wrap_info": {"accessor": "a", "token": "t"}},
}
REPORT = {
    "format": "securetrain/report/v1",
    "evaluation": {"metrics": [METRIC]},
    "gates": [{"metric": "accuracy", "rule": "≥ 0.9", "value": "0.95", "passed": True}],
}


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _answer(data: bytes, status: int = 200) -> Answer:
    return Answer(status, data, None)


def run_spec_of(data: bytes) -> None:
    os.environb[RUN_SPEC_ENV.encode()] = data.replace(b"\0", b"")
    take_run_spec()


def vault_log(data: bytes) -> None:
    list(parse_vault_log([_text(data)]))


def chain_of(data: bytes) -> None:
    verify_chain(split_lines(_text(data)), SHA)


Parser = Callable[[bytes], Any]


def judge(parser: Parser, data: bytes) -> None:
    """A value, or an error that can be shown."""
    try:
        parser(data)
    except SecuretrainError as error:
        explains_itself(error, "")


PARSERS: dict[str, tuple[Parser, Any]] = {
    "model.sig": (lambda data: verify_bundle(_text(data), PEM), BUNDLE),
    "signed head": (lambda data: verify_head(_text(data), PEM), ENVELOPE),
    "signed statement": (parse_statement, STATEMENT),
    "audit line": (lambda data: parse_line(_text(data)), json.loads(audit_text())),
    "audit trail": (chain_of, json.loads(audit_text())),
    "Vault's audit log": (vault_log, VAULT_LOG),
    "Vault's answer": (lambda data: parse(RawAnswer(200, data), "p"), VAULT_ANSWER),
    "Vault's refusal": (lambda data: parse(RawAnswer(400, data), "p"), {"errors": ["x"]}),
    "run of a pod": (run_spec_of, run_spec(Path("/x")).model_dump(mode="json", by_alias=True)),
    "request for keys": (lambda data: server.parse(GrantRequest, data), GRANT_REQUEST),
    "results": (lambda data: server.parse(ResultsRequest, data), RESULTS),
    "progress": (lambda data: server.parse(ProgressReport, data), PROGRESS),
    "granted keys": (lambda data: _parsed(GrantResponse, _answer(data)), GRANT_RESPONSE),
    "problem document": (
        lambda data: error_of(_answer(data, 403)),
        {"title": "t", "status": 403, "detail": "d", "reason": "WrongKey"},
    ),
}
EACH = pytest.mark.parametrize("name", PARSERS)


@EACH
@RELAXED
@given(draw=st.data())
def test_any_document_gives_a_value_or_one_of_our_errors(name: str, draw: st.DataObject) -> None:
    parser, valid = PARSERS[name]
    judge(parser, draw.draw(documents(valid)))


@EACH
@pytest.mark.parametrize("depth", [900, 990, 100_000])
def test_no_depth_is_a_bug(name: str, depth: int) -> None:
    parser, _valid = PARSERS[name]
    for data in (b"[" * depth + b"]" * depth, b'{"data":' * depth + b"1" + b"}" * depth):
        judge(parser, data)


@pytest.mark.timeout(60)
@EACH
def test_a_mebibyte_of_nonsense_is_judged_at_once(name: str) -> None:
    parser, _valid = PARSERS[name]
    for data in (
        b"{" + b",".join(b'"%x":0' % n for n in range(50_000)) + b"}",
        b"[" + b"0," * 100_000 + b"0]",
        b'{"payload": "' + b"A" * (1 << 20) + b'"}',
    ):
        judge(parser, data)


@settings(RELAXED, max_examples=8)
@given(data=documents(REPORT))
def test_any_report_is_shown_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    (tmp_path / "report.json").write_bytes(data)
    for form in ("text", "json"):
        code = cli.main(["report", str(tmp_path), "-o", form])
        assert code in (ExitCode.OK, ExitCode.INTEGRITY), capsys.readouterr().err
