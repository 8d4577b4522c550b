"""Commands of the data owner: seal a dataset, and look at what is sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securetrain.cli import policies, sealing
from securetrain.cli.inspection import Depth, inspect_folder
from securetrain.cli.render import Output, OutputOption


def register(app: typer.Typer) -> None:
    """Add `seal`, `inspect`, `policy check` and `new policy`."""
    app.command()(sealing.seal)
    app.command()(inspect)
    policies.register(app)


def inspect(
    folder: Annotated[Path, typer.Argument(help="A sealed dataset or model.")],
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every file.")] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="Open the keys with your Vault login; check all tags.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say what a sealed folder is, who may use it, and whether it is whole.

    No key is needed: --deep compares every digest. With --keys, who owns the data also learns
    whether its keys still open, and with both whether every tag of every file is right.
    Exits with 12, naming the file, if something is missing or changed.
    """
    inspect_folder(folder, Depth(deep=deep, keys=keys), output)
