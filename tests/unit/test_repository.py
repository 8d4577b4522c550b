"""What holds for every Python module here: it is short and hides no standard one."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400


def modules() -> list[Path]:
    """Every Python file but those that were installed or built."""
    tops = (p for p in ROOT.iterdir() if p.name != "build" and not p.name.startswith("."))
    found = (path for top in tops for path in ([top] if top.is_file() else top.rglob("*.py")))
    return [path for path in found if path.suffix == ".py"]


def test_no_module_is_longer_than_a_reader_takes_in() -> None:
    lines = {path: path.read_bytes().count(b"\n") for path in modules()}
    assert Path(__file__).resolve() in lines
    assert [f"{p.relative_to(ROOT)}: {n}" for p, n in lines.items() if n > MAX_LINES] == []


@pytest.mark.parametrize("folder", ["operator", "tests/operator"])
def test_the_operator_folder_is_no_package(folder: str) -> None:
    """As a package it would hide `operator` of the standard library from whoever has ROOT first."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_module_is_named_operator() -> None:
    assert [path for path in modules() if path.name == "operator.py"] == []
