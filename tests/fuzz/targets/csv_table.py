"""A table in CSV."""

from __future__ import annotations

from fuzz.target import Target, file_of, sound_source
from securetrain.errors import InvalidInput
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.opening import SourceKind, open_source


def parse(data: bytes) -> None:
    with file_of(data, "data.csv") as path:
        source, _ = open_source(path, Wishes(label="kind", ignore=("id",)), kind=SourceKind.CSV)
        sound_source(source)


TARGET = Target(parse, (InvalidInput,))
