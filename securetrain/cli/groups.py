"""Groups of commands that more than one module adds to."""

from __future__ import annotations

import typer

new_app = typer.Typer(name="new", help="Print a starting point: a job or a policy.")
"""`securetrain new …`."""
