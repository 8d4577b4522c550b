"""The list of mutations: TOML files, one a topic."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

FOLDER = Path(__file__).parent


class Mutation(BaseModel):
    """One guard taken out.

    Attributes:
        topic: name of the TOML file.
        guard: what is taken out, in plain words.
        file: the file that holds it, from the project's root.
        old: the text that is replaced; it occurs exactly once.
        new: what stands there instead.
        tests: pytest ids; at least one of them must go red.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str
    guard: str = Field(min_length=5)
    file: str
    old: str = Field(min_length=1)
    new: str
    tests: tuple[str, ...] = Field(min_length=1)

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.topic}: {self.guard} ({self.file})"

    def applied(self, text: str) -> str:
        """The file's text without the guard.

        Raises:
            ValueError: the text to replace is not there exactly once.
        """
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.label}: `old` occurs {found} times in the file, not once")
        return text.replace(self.old, self.new)


def load(topics: Sequence[str] = ()) -> list[Mutation]:
    """All mutations of some topics, or of all."""
    paths = sorted(FOLDER.glob("*.toml"))
    unknown = set(topics) - {path.stem for path in paths}
    if unknown:
        known = ", ".join(path.stem for path in paths)
        raise SystemExit(f"no such topic: {', '.join(sorted(unknown))}. There are: {known}")
    found: list[Mutation] = []
    for path in paths:
        if not topics or path.stem in topics:
            entries = tomllib.loads(path.read_text())["mutation"]
            found += [Mutation(topic=path.stem, **entry) for entry in entries]
    return found
