"""Tables in Parquet files, read some rows at a time; needs pyarrow, the extra `parquet`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from securetrain.errors import BadConfiguration, InvalidInput
from securetrain.sealed.sources.base import pattern
from securetrain.sealed.sources.columns import Cell, Kind

BATCH_BYTES: Final = 2 << 20
"""Of a batch as it is stored; as Python numbers it can be eight times as large and more."""
BATCH_ROWS: Final = 4096


class ParquetRows:
    """The rows of one or more Parquet files with the same columns.

    Raises:
        BadConfiguration: pyarrow is not installed.
        InvalidInput: a file cannot be read, or its columns are not the first one's.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        _pyarrow()
        self._paths = tuple(paths)
        with _opened(self._paths[0]) as file:
            schema = file.schema_arrow
            self.names: tuple[str, ...] = tuple(schema.names)
            self._types = list(schema.types)
        for path in self._paths[1:]:
            with _opened(path) as file:
                if (tuple(file.schema_arrow.names), list(file.schema_arrow.types)) != (
                    self.names,
                    self._types,
                ):
                    raise _bad(path, "does not have the columns of the first file")

    def kinds(self) -> Sequence[Kind | None]:
        """By the columns' types; of what can be neither, None."""
        return [_kind(each) for each in self._types]

    def rows(self, wanted: Sequence[int]) -> Iterator[Sequence[Cell]]:
        """The cells of some columns, row by row."""
        for place in wanted:
            _check_type(self.names[place], self._types[place])
        names = [self.names[place] for place in wanted]
        for path in self._paths:
            with _opened(path) as file:
                for batch in file.iter_batches(_batch_rows(file), columns=names, use_threads=False):
                    columns = [_cells(batch.column(name)) for name in names]
                    yield from zip(*columns, strict=True)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    pyarrow, parquet = _pyarrow()
    try:
        # Buffered, so that not a whole column of a row group is read at once.
        with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield file
    except MemoryError:
        raise _bad(path, "needs more memory than there is") from None
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError):
        raise _bad(path, "is not a Parquet file that can be read") from None


def _cells(column: Any) -> Sequence[Cell]:
    """The cells of a column; those that are lists become arrays without a Python number each."""
    if not _is_list(column.type):
        cells: list[Cell] = column.to_pylist()
        return cells
    numbers = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
    lists: list[Cell] = []
    at = 0
    for length in column.value_lengths().to_pylist():
        lists.append(None if length is None else numbers[at : at + length])
        at += length or 0
    return lists


def _is_list(kind: Any) -> bool:
    types = _pyarrow()[0].types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _batch_rows(file: Any) -> int:
    """Rows of about `BATCH_BYTES`."""
    metadata = file.metadata
    groups = range(metadata.num_row_groups)
    size = sum(metadata.row_group(group).total_byte_size for group in groups)
    mean = max(1, size // max(1, metadata.num_rows))
    return int(max(1, min(BATCH_ROWS, BATCH_BYTES // mean)))


def _kind(kind: Any) -> Kind | None:
    types = _pyarrow()[0].types
    if types.is_dictionary(kind):
        return _kind(kind.value_type)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return Kind.NUMERIC
    if types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind):
        return Kind.CATEGORICAL
    return None


def _check_type(name: str, kind: Any) -> None:
    numbers = _is_list(kind) and _kind(kind.value_type) is Kind.NUMERIC
    if _kind(kind) is None and not numbers:
        raise InvalidInput(
            "SRC",
            name,
            f"has the type {str(kind)[:60]}",
            fix=f"leave the column out with --ignore {pattern(name)}, or store numbers or text",
        )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError:
        raise BadConfiguration(
            "Parquet files need pyarrow, which is not installed.",
            fix="pip install 'securetrain[parquet]'",
        ) from None
    return pyarrow, parquet


def _bad(path: Path, problem: str) -> InvalidInput:
    return InvalidInput("SRC", path.name, problem, fix="write it again with pyarrow or pandas")
