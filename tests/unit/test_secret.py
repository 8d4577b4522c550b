"""A Secret shows itself to nobody who does not ask by name."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from securetrain.secret import Secret

SECRET = Secret(b"not-for-your-eyes")


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{:>40}".format])
def test_no_printing(show: object) -> None:
    assert callable(show)
    assert "not-for" not in show(SECRET)


def test_no_pickling_copying_hashing_or_json() -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy, hash, json.dumps):
        with pytest.raises(TypeError):
            attempt(SECRET)


def test_reveal_and_compare() -> None:
    assert SECRET.reveal() == b"not-for-your-eyes"
    assert Secret.from_text("not-for-your-eyes") == SECRET
    assert Secret(b"other") != SECRET
