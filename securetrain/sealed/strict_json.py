"""JSON as security needs it: one meaning per document, or no document.

Duplicate keys, floats, NaN, unknown fields, wrong types and over-long input are refused, because
two readers of a lenient document may each see another one. Everything that is wrong raises
ManifestInvalid, which names the file and the field.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn, TypeVar

from pydantic import ValidationError

from securetrain.api.types import Model
from securetrain.errors import ManifestInvalid
from securetrain.validation import first_problem

MAX_DIGITS: Final = 18

ModelT = TypeVar("ModelT", bound=Model)


class _Refused(ValueError):
    """JSON that a lenient parser would take."""


def load(data: bytes, *, name: str, limit: int) -> Any:
    """The value of a strict JSON document.

    Args:
        data: the file's bytes, UTF-8.
        name: what the document is, for messages.
        limit: most bytes that it may have.

    Raises:
        ManifestInvalid: it is too long, not JSON, or not strict.
    """
    if len(data) > limit:
        raise ManifestInvalid(f"{name} has {len(data)} bytes, more than {limit}.")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_no_float,
            parse_constant=_no_float,
            parse_int=_integer,
        )
    except _Refused as problem:
        raise ManifestInvalid(f"{name}: {problem}.") from None
    except (ValueError, RecursionError):
        raise ManifestInvalid(f"{name} is not JSON in UTF-8.") from None


def parse(model: type[ModelT], data: bytes, *, name: str, limit: int) -> ModelT:
    """A strict JSON document as `model`, by wire names only and without any coercion.

    Raises:
        ManifestInvalid: as `load`, or a field is unknown, missing or wrong; the first one is named.
    """
    value = load(data, name=name, limit=limit)
    try:
        # Written out again, so that only one parser ever reads what may be hostile.
        return model.model_validate_json(
            json.dumps(value), strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        problem = first_problem(error)
        field = problem.field or "the document"
        said = " ".join(filter(None, (problem.shown, problem.message)))
        raise ManifestInvalid(f"{name}: {field}: {said}.") from None


def dump(model: Model) -> bytes:
    """A model as the bytes of a file: indented JSON with wire names, absent fields left out."""
    return json.dumps(model.to_wire(), ensure_ascii=False, indent=2).encode() + b"\n"


def dump_line(model: Model) -> bytes:
    """A model as one line of a JSON Lines file."""
    return json.dumps(model.to_wire(), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, entry in pairs:
        if key in value:
            raise _Refused(f"the key {key[:64]!r} stands there twice")
        value[key] = entry
    return value


def _no_float(text: str) -> NoReturn:
    raise _Refused(f'{text[:32]} is not an integer; write decimals as text, such as "0.97"')


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Refused(f"an integer has more than {MAX_DIGITS} digits")
    return int(text)
