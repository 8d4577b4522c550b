"""What a model's validation found wrong, in the few words that people can act on."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from pydantic import ValidationError

MAX_FIELD: Final = 100
MAX_MESSAGE: Final = 200


class Problem(NamedTuple):
    """One wrong field."""

    field: str
    """Dotted path by wire names; empty for the document as a whole."""
    message: str
    """What is wrong with it; does not quote the value."""
    value: Any


def first_problem(error: ValidationError) -> Problem:
    """The first problem, but an unknown field before all others.

    Where a name is misspelt the right one is missing too, and the misspelling says more.
    """
    problems = error.errors(include_url=False, include_context=False)
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    first = (unknown or problems)[0]
    field = ".".join(str(part) for part in first["loc"])[:MAX_FIELD]
    message = "unknown field" if unknown else first["msg"].removeprefix("Value error, ")
    return Problem(field, message[:MAX_MESSAGE], first["input"])
