"""No row of the threat model without its test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.named_tests import exists

PAGE = (Path(__file__).resolve().parents[2] / "docs/threat-model.md").read_text()
TABLES = PAGE[PAGE.index("## What stops whom") : PAGE.index("## Out of reach")]
ROWS = re.findall(r"^\| (?!attack or fault)([^-|].*) \|$", TABLES, re.MULTILINE)


def test_the_tables_are_read() -> None:
    assert len(ROWS) >= 90


@pytest.mark.parametrize("row", ROWS)
def test_every_attack_and_fault_names_what_stops_it_and_a_test_that_exists(row: str) -> None:
    cells = row.split(" | ")
    assert len(cells) == 3, "attack or fault, what stops it, test"
    (test,) = re.findall(r"^`(tests/[a-z0-9_/]+\.py::test_[a-z0-9_]+)`$", cells[2])
    assert exists(test), test
