"""What the parts say of failures holds nothing of what failed: no key, no token, no plaintext."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from securetrain.vault.answers import parse, refusal
from securetrain.vault.transport import RawAnswer
from securetrain_operator.logs import JsonFormatter

ROOT = Path(__file__).parents[2]
SECRET = "s.9fQ2-plaintext-4711"
PHRASES = (
    "",
    "cipher: message authentication failed",
    "wrapping token is not valid or does not exist",
    "encryption key not found",
    "no handler for route",
    "permission denied",
    "error validating token",
    "Vault is sealed",
)


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("status", [307, 400, 403, 404, 405, 412, 429, 500, 503])
def test_a_vault_error_that_quotes_a_secret_becomes_our_own_words(status: int, phrase: str) -> None:
    error = refusal(status, f"{phrase} {SECRET}", "transit/decrypt/kek")
    assert SECRET not in f"{error} {error!r} {error.fix} {error.__dict__}"


def test_a_warning_of_vault_is_not_quoted() -> None:
    body = {"data": {"plaintext": SECRET}, "warnings": [f"ignored {SECRET}"]}
    with pytest.raises(Exception, match="warning") as caught:
        parse(RawAnswer(200, json.dumps(body).encode()), "sys/x")
    assert SECRET not in str(caught.value)


def failing(values: dict[str, Any]) -> None:
    raise ValueError(f"cannot handle {values}")


def test_the_operators_log_names_type_and_place_of_an_exception_only() -> None:
    try:
        failing({"token": SECRET})
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    record.__dict__["token"] = SECRET
    line = JsonFormatter().format(record)
    assert SECRET not in line
    assert "ValueError at test_redaction.py" in line


def test_a_process_that_stays_open_to_others_does_not_start() -> None:
    """No kernel at hand refuses to close it, so the call that closes it is left out."""
    code = (
        "from securetrain_trainer import harden\n"
        "harden._prctl = lambda option, value=0: 1\n"
        "harden.harden()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/training_image"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "BadConfiguration" in done.stderr
    assert "cannot protect its memory" in done.stderr
