"""What a model's validation found wrong, in the few words that people can act on."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from securetrain.errors import InvalidInput

MAX_FIELD: Final = 100
MAX_MESSAGE: Final = 300
MAX_VALUE: Final = 60

ModelT = TypeVar("ModelT", bound=BaseModel)


class Problem(NamedTuple):
    """One wrong field."""

    field: str
    """Dotted path by wire names; empty for the document as a whole."""
    message: str
    """What is wrong with it; does not quote the value."""
    value: Any

    def error(self, *, within: str = "", fix: str) -> InvalidInput:
        """The problem as an error; `within` is the field that the document stands in."""
        field = ".".join(filter(None, (within, self.field))) or "the document"
        if self.message == MISSING:
            return InvalidInput.missing(field, fix=fix)
        return InvalidInput(field, self.value, f"is not valid ({self.message})", fix=fix)

    @property
    def shown(self) -> str:
        """The value as people may see it: cut, on one line; nothing of a whole document."""
        if self.message == MISSING or not self.field:
            return ""
        text = repr(self.value)
        return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"


MISSING: Final = "is required and missing"


def parse_strictly(model: type[ModelT], value: Any) -> ModelT:
    """A value that came from JSON or YAML as `model`, as strictly as the API server takes it.

    Text is no number and a number is no text. Raises ValidationError, and ValueError or TypeError
    for a value that JSON does not know.
    """
    text = json.dumps(value, allow_nan=False)
    return model.model_validate_json(text, strict=True, by_alias=True, by_name=False)


def first_problem(error: ValidationError) -> Problem:
    """The first problem, but an unknown field before all others.

    Where a name is misspelt the right one is missing too, and the misspelling says more.
    """
    problems = error.errors(include_url=False, include_context=False)
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    first = (unknown or problems)[0]
    field = ".".join(str(part) for part in first["loc"])[:MAX_FIELD]
    if unknown:
        message = "unknown field"
    elif first["type"] == "missing":
        message = MISSING
    else:
        message = first["msg"].removeprefix("Value error, ")
    return Problem(field, message[:MAX_MESSAGE], first["input"])
