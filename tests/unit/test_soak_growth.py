"""What the soak finds in what its operators said."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak.growth import unforeseen
from support.operator_process import OperatorProcess


@pytest.mark.parametrize(
    "token",
    ["eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "s.0123456789abcdefghij", "hvs.0123456789abcdefghij"],
)
@pytest.mark.parametrize(("file", "where"), [("stderr", "log"), ("stdout", "output")])
def test_a_token_is_reported_and_not_repeated(
    tmp_path: Path, file: str, where: str, token: str
) -> None:
    for name in ("stdout", "stderr"):
        (tmp_path / name).write_text("one line\nits message\n")
    operator = OperatorProcess(tmp_path, 1, 2)
    assert unforeseen(operator) == []
    with (tmp_path / file).open("a") as said:
        said.write(f'unexpected {{"token": "{token}"}}\n')
    assert unforeseen(operator) == [f"{where}: 1 tokens"]


def test_a_bug_is_reported(tmp_path: Path) -> None:
    (tmp_path / "stdout").touch()
    (tmp_path / "stderr").write_text("fine\nreconcile failed: KeyError\n")
    assert unforeseen(OperatorProcess(tmp_path, 1, 2)) == ["log: reconcile failed: KeyError"]
