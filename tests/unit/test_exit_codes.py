"""Every reason for which a job can fail has its exit code; an error is one line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import securetrain_operator
from securetrain import errors
from securetrain.errors import (
    REASON_EXIT_CODES,
    ExitCode,
    InvalidInput,
    SecuretrainError,
    ShardCorrupt,
    exit_code_of,
)
from securetrain.jobs import view
from securetrain_operator import errors as of_operator
from support.reference import rows
from support.samples import training_job

CODE = Path(securetrain_operator.__file__).parent
MODULES = {errors.__name__, of_operator.__name__}
NEVER_FINAL = frozenset(
    {
        *("Accepted", "Training", "Certifying", "Suspended", "Certified", "Evaluated"),
        *("WaitingForKeys", "Queued", "PodStarting", "PodEnding", "PodsMissing", "ChildDeleting"),
        *("NamespaceNotEnabled", "VaultConnectionUnknown", "VaultConnectionNotAllowed"),
        *("StorageConnectionUnknown", "StorageConnectionNotAllowed", "VolumesNotMounted"),
        *("VaultRoleMissing", "ClaimMissing", "GuardMissing"),
        *("ImagePullFailed", "ContainerNotCreated", "Unschedulable"),
    }
)
"""Reasons of jobs that go on, wait, or have succeeded; a reason is here or has an exit code."""


def classes(base: type[SecuretrainError]) -> Iterator[type[SecuretrainError]]:
    yield base
    for kind in base.__subclasses__():
        yield from classes(kind)


def diagnosed() -> set[str]:
    """Reasons that the operator's code spells out."""
    calls = (
        node
        for path in CODE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Diagnosis")
    )
    first = (call.args[0] for call in calls if call.args)
    return {str(node.value) for node in first if isinstance(node, ast.Constant)}


def test_the_operator_spells_its_reasons_out() -> None:
    assert {"OOMKilled", "SpecInvalid", "PodStarting"} <= diagnosed()


@pytest.mark.parametrize("reason", sorted(diagnosed()))
def test_a_reason_has_an_exit_code_or_is_never_final(reason: str) -> None:
    known = reason in REASON_EXIT_CODES or hasattr(errors, reason)
    assert known or reason in NEVER_FINAL


@pytest.mark.parametrize(
    "kind", [k for k in classes(SecuretrainError) if k.__module__ == of_operator.__name__]
)
def test_the_operators_own_errors_keep_their_exit_codes(kind: type[SecuretrainError]) -> None:
    if not kind.retryable:
        assert REASON_EXIT_CODES[kind.__name__] is kind.exit_code
    assert exit_code_of(kind.__name__) is kind.exit_code


def test_the_table_names_no_class_twice() -> None:
    assert not [reason for reason in REASON_EXIT_CODES if hasattr(errors, reason)]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("DatasetChanged", 12),
        ("SpecInvalid", 13),
        ("GatesMissed", 14),
        ("VaultSealed", 11),
        ("GrantsExhausted", 10),
        ("InvalidInput", 13),
        ("NobodyKnowsThis", 1),
    ],
)
def test_a_failed_job_ends_with_its_reasons_exit_code(reason: str, code: int) -> None:
    job = training_job()
    job["metadata"]["uid"] = "uid-1"
    condition = {"type": "Failed", "status": "True", "reason": reason, "message": "x"}
    job["status"] = {"phase": "Failed", "conditions": [condition]}
    assert view(job).exit_code == ExitCode(code)
    job["status"]["phase"] = "Succeeded"
    assert view(job).exit_code is ExitCode.OK


def test_the_reference_lists_every_reason_once_with_its_exit_code() -> None:
    """Those that end no job by themselves have none."""
    kinds = [kind for kind in classes(SecuretrainError) if kind.__module__ in MODULES]
    codes = {kind.__name__: kind.exit_code for kind in kinds if kind is not SecuretrainError}
    known = dict.fromkeys(diagnosed(), "–")
    known |= {reason: str(int(code)) for reason, code in (codes | dict(REASON_EXIT_CODES)).items()}
    assert {"StorageFull", "VaultClockSkew", "VaultRedirects"} <= known.keys()
    table = rows("Reasons")
    assert {row[0].strip("`"): row[1] for row in table} == known
    assert len(table) == len(known)
    assert [row[0] for row in table if len(row[2]) < 10] == []


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain: é ≥ …", "plain: é ≥ …"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_an_error_is_one_line_that_no_terminal_obeys(said: str, shown: str) -> None:
    error = InvalidInput(said, 1, said, fix=said)
    assert str(error) == f"{shown}: 1 {shown}. Fix: {shown}"
    assert error.message in error.args
    assert InvalidInput.missing(said, fix=said).message == f"{shown} is required and missing."
    assert str(ShardCorrupt(said)).startswith(f"{shown}. Fix: ")
