"""What people are told to run or to ask for exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from securetrain.cli.main import app

ROOT = Path(__file__).parents[2]
CODE = [ROOT / folder for folder in ("securetrain", "operator", "training_image", "charts")]
COMMAND = re.compile(r"(?:run |[`'])securetrain ([a-z]+(?:-[a-z]+)*)(?: ([a-z]+(?:-[a-z]+)*))?")
ROLE = re.compile(r"role (securetrain-[a-z]+)")


def found(pattern: re.Pattern[str]) -> set[tuple[str | None, ...]]:
    texts = (
        path.read_text()
        for folder in CODE
        for path in folder.rglob("*")
        if path.suffix in (".py", ".txt", ".yaml", ".tpl")
    )
    return {match.groups() for text in texts for match in pattern.finditer(text)}


def commands(group: Any, *words: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*words, name)
        if hasattr(command, "commands"):
            yield from commands(command, *words, name)


@pytest.mark.parametrize("words", sorted(found(COMMAND), key=str))
def test_commands_that_are_advised_exist(words: tuple[str, str | None]) -> None:
    known = set(commands(typer.main.get_command(app)))
    first, second = words
    assert (first,) in known
    groups = {command[0] for command in known if len(command) > 1}
    assert first not in groups or second is None or (first, second) in known


def test_roles_that_are_advised_are_in_the_chart() -> None:
    made = (ROOT / "charts/securetrain/templates/rbac-users.yaml").read_text()
    roles = {str(role) for (role,) in found(ROLE)}
    assert roles
    assert [role for role in roles if f"name: {role}\n" not in made] == []
