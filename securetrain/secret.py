"""A holder of secret bytes that cannot be printed, logged, pickled or serialised by accident."""

from __future__ import annotations

import hmac
from typing import Final, NoReturn


class Secret:
    """Secret bytes; `reveal()` is the only way to them, so that a search finds every use.

    Python cannot wipe `bytes`; keep the scope of a Secret short and claim no more than that.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value: Final = bytes(value)

    @classmethod
    def from_text(cls, text: str) -> Secret:
        """A secret from text, such as a token, in UTF-8."""
        return cls(text.encode())

    def reveal(self) -> bytes:
        """The secret bytes themselves."""
        return self._value

    def reveal_text(self) -> str:
        """The secret as text."""
        return self._value.decode()

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> NoReturn:
        raise TypeError("a Secret is not hashable: it must not become a dictionary key")

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")
