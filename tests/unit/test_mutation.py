"""The list of guards to take out fits the code, and the script that takes them out is right."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mutation import catalogue
from mutation.catalogue import Mutation
from mutation.trial import Copy, Verdict
from support.named_tests import ROOT, exists

MUTATIONS = catalogue.load()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.label)
def test_every_removal_fits_the_code_and_names_tests_that_exist(mutation: Mutation) -> None:
    assert mutation.applied((ROOT / mutation.file).read_text())
    for test in mutation.tests:
        assert exists(test), test


def test_a_text_that_is_there_twice_or_not_at_all_is_refused() -> None:
    made = Mutation(topic="t", guard="a guard", file="f", old="a", new="b", tests=("t::t",))
    for text in ("aa", "c"):
        with pytest.raises(ValueError, match="not once"):
            made.applied(text)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A project with one guard and two tests, of which one looks at it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "guard.py").write_text("def allowed(who):\n    return who == 'us'\n")
    (tree / "test_guard.py").write_text(
        "import sys; sys.path.insert(0, '.')\nfrom guard import allowed\n"
        "def test_looks():\n    assert not allowed('them')\n"
        "def test_looks_away():\n    assert allowed('us')\n"
    )
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tree, check=True)
    return Copy.of(tree, tmp_path / "copy")


@pytest.mark.parametrize(
    ("test", "new", "verdict"),
    [
        ("test_looks", "True", Verdict.RED),
        ("test_looks_away", "True", Verdict.GREEN),
        ("test_looks", ")", Verdict.NOT_RUN),
        ("test_that_is_not_there", "True", Verdict.NOT_RUN),
    ],
)
def test_only_a_test_that_ran_and_failed_counts_as_red(
    copy: Copy, test: str, new: str, verdict: Verdict
) -> None:
    tests = (f"test_guard.py::{test}",)
    made = Mutation(
        topic="t", guard="a guard", file="guard.py", old="who == 'us'", new=new, tests=tests
    )
    assert copy.attempt(made).verdict is verdict
    assert "who == 'us'" in (copy.folder / "guard.py").read_text()


def test_a_test_that_is_red_anyway_stops_the_run(copy: Copy) -> None:
    (copy.folder / "guard.py").write_text("def allowed(who):\n    return True\n")
    with pytest.raises(SystemExit, match="must pass"):
        copy.require_green(["test_guard.py::test_looks"])
