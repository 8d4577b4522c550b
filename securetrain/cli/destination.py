"""Where `seal` puts a dataset: a folder here, or a staging folder and on from there to a URI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securetrain.cli import depots, render
from securetrain.cli.depots import Reach
from securetrain.cli.render import Output
from securetrain.cli.transfer import resume_command, send_with_bar
from securetrain.errors import InvalidInput, OutputExists
from securetrain.storage.parcel import pack
from securetrain.storage.upload import require_free
from securetrain.storage.uri import StorageUri


@dataclass(frozen=True, slots=True)
class Destination:
    """A folder of this machine, and the address that its files are sent to."""

    folder: Path
    uri: StorageUri | None
    reach: Reach

    @classmethod
    def parse(cls, text: str, staging: Path | None, reach: Reach) -> Destination:
        """What DEST and --staging say; raises InvalidInput."""
        if "://" not in text:
            if staging is not None:
                fix = "leave it out: DEST is the folder itself"
                raise InvalidInput("--staging", str(staging), "is for a URI only", fix=fix)
            return cls(Path(text), None, reach)
        uri = depots.folder_uri(text, "DEST")
        return cls(staging or Path(f"{uri.path.rpartition('/')[2]}.sealed"), uri, reach)

    def check(self) -> None:
        """Before the work: nothing is there yet, and it can be reached; raises OutputExists."""
        if self.uri is None:
            return
        if os.path.lexists(self.folder):
            go_on = resume_command(self.folder, self.uri, self.reach)
            raise OutputExists(
                f"--staging: {str(self.folder)!r} exists.",
                fix=f"if it is what you want to send: {go_on}; else choose another with --staging",
            )
        with depots.opened(self.uri, self.reach) as depot:
            require_free(depot, "choose another place; a dataset is never overwritten")

    def send_on(self, output: Output, sealed: Mapping[str, Any]) -> None:
        """Send the folder to the address, if there is one, and say so."""
        if self.uri is None:
            return
        render.lines(
            f"If this breaks, go on with: {resume_command(self.folder, self.uri, self.reach)}"
        )
        with depots.opened(self.uri, self.reach) as depot:
            send_with_bar(pack(self.folder), depot, self.uri, self.reach, output, sealed)

    def next_steps(self) -> list[tuple[str, str]]:
        """Rows that say what to do with the folder."""
        if self.uri is not None:
            return [("staging", f"{self.folder}: keep it to re-wrap, or remove it once it is sent")]
        to = f"pvc://datasets/{self.folder.name}"
        return [
            ("next", f"securetrain upload {self.folder} {to}, or copy it into the claim; then"),
            ("", f"securetrain new job --dataset {to} > job.yaml"),
        ]
