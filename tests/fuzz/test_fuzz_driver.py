"""The driver of the fuzzer tells a parser that holds from one that does not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fuzz import __main__ as driver
from fuzz import target
from securetrain.errors import BadConfiguration, ManifestInvalid, SecuretrainError, WrongKey

BROKEN = """
from fuzz.target import Target
from securetrain.sealed import dataset

def parse(data):
    if {condition}:
        {harm}

TARGET = Target(parse)
"""
HARMS = {
    "another exception": ("len(data) > 3", "raise KeyError(data)"),
    "memory": ("len(data) > 3", "bytearray(1 << 31)"),
}

if importlib.util.find_spec("atheris"):  # there is none for some platforms

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("harm", HARMS)
    def test_a_broken_parser_ends_the_run_and_its_input_is_kept(
        harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        condition, code = HARMS[harm]
        module = tmp_path / "fuzz" / "targets" / "broken.py"
        module.parent.mkdir(parents=True)
        module.write_text(BROKEN.format(condition=condition, harm=code))
        monkeypatch.setenv("PYTHONPATH", f"{target.FOLDER.parent}:{tmp_path}")
        outcome = driver.run("broken", 30, build=tmp_path)
        assert outcome.exit_code != 0
        assert len(outcome.crashes) == 1, (tmp_path / "broken" / "log").read_text()
        assert len(outcome.crashes[0].read_bytes()) > 3
        assert "1 crashes" in str(outcome)


@pytest.mark.parametrize(
    "error",
    [
        SecuretrainError("keys.json: of no class"),
        ManifestInvalid("which file?"),
        ManifestInvalid("keys.json: " + "x" * target.MAX_MESSAGE),
    ],
)
def test_an_error_that_does_not_explain_itself_is_found(error: SecuretrainError) -> None:
    with pytest.raises(AssertionError):
        target.explains_itself(error, "keys.json")


def test_refusals_are_the_named_ones_only() -> None:
    def refuse(data: bytes) -> None:
        raise WrongKey("x")

    with pytest.raises(WrongKey):
        target.Target(refuse, (ManifestInvalid, BadConfiguration)).check(b"")
    target.Target(refuse, (WrongKey,)).check(b"")


def test_what_is_parsed_must_hold() -> None:
    def unsound(value: bytes) -> None:
        assert value != b"b"

    made = target.Target(bytes, holds=unsound, views=lambda data: (data, b"b"))
    with pytest.raises(AssertionError):
        made.check(b"a")
