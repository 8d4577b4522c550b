"""The command `securetrain`, which is also the kubectl plugin `kubectl securetrain`."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

import securetrain
from securetrain.cli import admin, audit, data, jobs, models, render, rewrap, transfer
from securetrain.cli.groups import new_app
from securetrain.errors import ExitCode, SecuretrainError

DEBUG_ENV: Final = "SECURETRAIN_DEBUG"

app = typer.Typer(
    name="securetrain",
    help="Train TensorFlow models on data that stays encrypted.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"securetrain {securetrain.__version__}\n")
        raise typer.Exit


@app.callback()
def _frame(
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show tracebacks; also {DEBUG_ENV}=1.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Train TensorFlow models on data that stays encrypted."""


for module in (data, transfer, rewrap, jobs, models, audit, admin):
    module.register(app)
app.add_typer(new_app)


def run() -> None:
    """Entry point: runs the command and exits with a code of `securetrain.errors.ExitCode`."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The exit code; errors have been printed to standard error.
    """
    debug = "--debug" in arguments or os.environ.get(DEBUG_ENV, "") not in ("", "0")
    try:
        code = app(arguments or ["--help"], prog_name="securetrain", standalone_mode=False)
        return code if isinstance(code, int) else ExitCode.OK
    except TyperException as problem:
        render.lines(f"error: {problem.format_message()}", "fix: see securetrain COMMAND --help")
        return ExitCode.USAGE
    except typer.Abort:
        render.lines("error: aborted.", "fix: run it again if you did not mean to")
        return ExitCode.USAGE
    except Exception as problem:
        if debug:
            traceback.print_exc()
        if isinstance(problem, SecuretrainError):
            render.error(problem)
            return problem.exit_code
        return _bug(problem)


def _bug(problem: Exception) -> int:
    # Only the type: the text of a foreign exception might quote what it was given.
    render.lines(
        f"error: an unexpected {type(problem).__name__}; this is a bug in securetrain.",
        f"fix: run it again with {DEBUG_ENV}=1 and report the traceback",
    )
    return ExitCode.BUG
