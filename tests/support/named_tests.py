"""Whether a test that a page or a list names exists, without importing it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def tests_in(file: str) -> frozenset[str]:
    """Names of the test functions of a file, from the project's root; empty if it is not there."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(path.read_text()))
    found = {node.name for node in nodes if isinstance(node, functions)}
    return frozenset(name for name in found if name.startswith("test_"))


def exists(test: str) -> bool:
    """Whether `file::test_name` or `file::test_name[case]` is there."""
    file, _, name = test.partition("::")
    return name.partition("[")[0] in tests_in(file)
