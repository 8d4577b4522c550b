"""What will be sealed: a source, looked through, with every record's place. Nothing is written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from securetrain.api.names import Split
from securetrain.errors import InvalidInput
from securetrain.sealed.examples import MAX_RECORD_BYTES
from securetrain.sealed.ledger import Balance, Ledger
from securetrain.sealed.sources.base import Record, Seekable, Source, changed
from securetrain.sealed.sources.spill import Spill
from securetrain.sealed.splits import Fractions
from securetrain.sealed.staging import writing

REPORT_EVERY: Final = 256


@dataclass(frozen=True)
class Plan:
    """A source whose records all have their place."""

    source: Source
    ledger: Ledger

    @cached_property
    def balance(self) -> Balance:
        """What lies where."""
        return self.ledger.balance(self.source.task.classes)

    def check_complete(self) -> None:
        """Raise InvalidInput if a split is empty."""
        empty = [split for split in Split if not self.balance.records[split]]
        if empty:
            raise InvalidInput(
                "SRC",
                len(self.source),
                f"records leave nothing for the split {empty[0]}",
                fix="seal more records or groups, or give that split a larger part with --split",
            )

    def read(self, where: int, span: int) -> bytes:
        """A record's tf.train.Example."""
        if not isinstance(self.source, Seekable):
            raise TypeError("the source cannot give a record again")
        return self.source.read(where, span)


@contextmanager
def planned(
    source: Source,
    fractions: Fractions,
    folder: Path | None,
    on_progress: Callable[[int], None] = lambda records: None,
) -> Iterator[Plan]:
    """Look through a source and give every record its place.

    Args:
        source: the source.
        fractions: sizes of the splits.
        folder: a disk with room for all records, sealed; None if none will be sealed.
        on_progress: told the number of records now and then.

    Raises:
        InvalidInput: a record does not fit.
        BadConfiguration: the system does not let us put down where records lie.
    """
    with ExitStack() as stack:
        with writing(folder or Path(tempfile.gettempdir())):
            if folder is not None and not isinstance(source, Seekable):
                source = stack.enter_context(Spill(source, folder))
            ledger = stack.enter_context(Ledger(fractions, folder))
            for record in source.scan():
                _check(record, source.task.classes)
                ledger.add(record)
                if len(ledger) % REPORT_EVERY == 0:
                    on_progress(len(ledger))
            ledger.flush()
        if len(ledger) != len(source):
            raise changed(f"{len(ledger)} of {len(source)} records")
        on_progress(len(ledger))
        yield Plan(source, ledger)


def _check(record: Record, classes: int) -> None:
    size = len(record.example)
    if size > MAX_RECORD_BYTES:
        raise InvalidInput(
            "SRC",
            f"a record of {size} bytes",
            f"is longer than {MAX_RECORD_BYTES}",
            fix="make it smaller",
        )
    if not 0 <= record.label < classes:
        raise changed(f"label {record.label}")
