"""The page for contributors names only what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/contributing.md").read_text()
CODE = ("securetrain", "operator", "training_image", "localcluster")
ROWS = [
    line
    for line in PAGE[PAGE.index("| what | place") :].splitlines()
    if line.startswith("| ") and "---" not in line and "what | place" not in line
]


def test_every_row_names_files_that_exist_and_names_that_stand_in_them() -> None:
    assert len(ROWS) >= 10
    for row in ROWS:
        quoted = re.findall(r"`([^`]+)`", row)
        files = [ROOT / name for name in quoted if "/" in name or name == "docs"]
        assert files, row
        for path in files:
            assert path.exists(), f"{path} in: {row}"
        text = "".join(path.read_text() for path in files if path.is_file())
        for name in quoted:
            if re.fullmatch(r"_?[A-Za-z]+", name) and name != "docs":
                assert name in text, f"{name} in: {row}"


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"make ([a-z]+)`", page.read_text())}
    assert named
    for name in named:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_every_page_that_is_linked_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{target} in {page.name}"


def test_decisions_are_numbered_one_by_one() -> None:
    names = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
    assert [name[:5] for name in names] == [f"{n:04d}-" for n in range(1, len(names) + 1)]
    for name in names:
        lines = (ROOT / "docs/decisions" / name).read_text().splitlines()
        assert lines[0].startswith(f"# {name[:4]}: "), name
        assert len(lines) <= 40, name


def test_no_module_has_over_400_lines_and_no_function_over_60() -> None:
    modules = [path for package in CODE for path in (ROOT / package).rglob("*.py")]
    assert len(modules) > 100
    for path in modules:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} in {path}"
