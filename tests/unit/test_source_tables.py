"""CSV and Parquet: columns are typed by what they hold, the owner has the last word."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from securetrain.errors import BadConfiguration, InvalidInput, UsageError
from securetrain.sealed.sources import csv_file as csv_module
from support.real_sources import csv_file, parquet_file
from support.sources import records_of, source_of, text_file, values_of

WISHES: dict[str, Any] = {"label": "kind", "ignore": ("id",)}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_is_typed_by_its_cells(tmp_path: Path, separator: str) -> None:
    source = source_of(csv_file(tmp_path / "data.csv", separator=separator), **WISHES)
    features = source.features
    assert set(features) == {"size", "colour", "weight", "kind"}
    assert features["colour"].categories == ("blue", "green", "red")
    assert (features["size"].dtype, features["size"].encoding) == ("float32", "float")
    assert features["weight"].categories is None
    assert source.task.labels == ("cat", "dog", "owl")
    assert source.task.label_name == "kind"
    assert source.notes == (
        "left out: id",
        "missing values, taken as the mean: size (16)",
    )
    first, second, *_ = values_of(source)
    assert np.isnan(first["size"]).all()
    assert 900 < second["size"][0] < 1800


def test_parquet_and_csv_of_one_table_are_the_same_dataset(tmp_path: Path) -> None:
    text = source_of(csv_file(tmp_path / "a.csv"), **WISHES)
    binary = source_of(parquet_file(tmp_path / "a.parquet"), label="kind", ignore=("id", "vector"))
    assert text.features == binary.features
    assert text.task == binary.task
    pairs = zip(records_of(text), records_of(binary), strict=True)
    assert all(one.example == other.example for one, other in pairs)


def test_vectors_and_flags_of_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "v": pa.array([[1.0, 2.0], [3.0, 4.0]]),
            "flag": [True, False],
            "shade": pa.array(["x", "y"]).dictionary_encode(),
            "n": [2**40, None],
            "y": ["a", "b"],
        }
    )
    parquet.write_table(table, path)
    source = source_of(path, label="y")
    assert source.features["v"].shape == (2,)
    assert source.features["flag"].categories == ("false", "true")
    assert source.features["shade"].categories == ("x", "y")
    values = values_of(source)
    assert values[1]["v"].tolist() == [3.0, 4.0]
    assert (values[0]["n"][0], np.isnan(values[1]["n"][0])) == (2.0**40, True)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pa.array([[1.0], [1.0, 2.0]]), "same number of numbers"),
        (pa.array([[1.0], None]), "empty in some records"),
        (pa.array([b"a", b"b"]), "has the type binary"),
        (pa.array([1, 2], pa.timestamp("s")), "has the type timestamp"),
    ],
)
def test_columns_of_a_parquet_file_that_are_refused(tmp_path: Path, column: Any, says: str) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"x": column, "n": [1, 2], "y": ["a", "b"]}), path)
    with pytest.raises(InvalidInput, match=says):
        source_of(path, label="y")
    assert set(source_of(path, label="y", ignore=("x",)).features) == {"n", "y"}


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    for number in range(3):
        parquet_file(tmp_path / f"part-{number}.parquet", 20)
    assert len(source_of(tmp_path, **WISHES)) == 60
    parquet.write_table(pa.table({"kind": ["a"], "x": [1]}), tmp_path / "part-3.parquet")
    with pytest.raises(InvalidInput, match=r"part-3\.parquet"):
        source_of(tmp_path, **WISHES)


def test_without_pyarrow_the_extra_to_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet_file(tmp_path / "a.parquet", 20)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadConfiguration, match=r"pip install 'securetrain\[parquet\]'"):
        source_of(path, **WISHES)


CSV = "code,n,when,y\n007,1,2020-01-01,a\n008,2,2020-01-02,b\n010,3,2020-01-01,a\n"


def test_codes_are_categories_and_the_owner_may_say_otherwise(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", CSV)
    assert source_of(path, label="y").features["code"].categories == ("007", "008", "010")
    given = source_of(path, label="y", categorical=("n",), ignore=("co*", "when"))
    assert given.features["n"].categories == ("1", "2", "3")
    with pytest.raises(InvalidInput, match="something else than numbers"):
        source_of(path, label="y", numeric=("when",))


def test_a_group_column_keeps_records_together_and_is_not_learnt_from(tmp_path: Path) -> None:
    source = source_of(text_file(tmp_path / "a.csv", CSV), label="y", group="when")
    assert "when" not in source.features
    assert [record.group for record in records_of(source)] == [
        "2020-01-01",
        "2020-01-02",
        "2020-01-01",
    ]


def test_classes_follow_the_names(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", CSV)
    source = source_of(path, label="y", label_names=("b", "a", "c"))
    assert [record.label for record in records_of(source)] == [1, 0, 1]
    assert source.task.classes == 3
    with pytest.raises(InvalidInput, match="not among the names"):
        source_of(path, label="y", label_names=("b", "c"))


def test_numbers_as_classes_are_in_their_order(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", "x,y\n1,10\n2,9\n3,-1\n")
    assert source_of(path, label="y").task.labels == ("-1", "9", "10")


@pytest.mark.parametrize(
    ("text", "wishes", "says"),
    [
        ("a,b\n1,2\n", {"label": "c"}, "is no column"),
        ("a,b\n1,2\n", {"label": "b", "ignore": ("x*",)}, "is no column"),
        ("a,b\n1,2\n", {"label": "b", "group": "c"}, "is no column"),
        ("a,a\n1,2\n", {"label": "a"}, "names two columns"),
        ("a,\n1,2\n", {"label": "a"}, "names two columns"),
        ("a,b\n", {"label": "b"}, "has no rows"),
        ("a\n1\n", {"label": "a"}, "two columns or more"),
        ("", {"label": "a"}, "two columns or more"),
        ("a,b\n1,2\n1\n", {"label": "b"}, "has 1 fields in line 3"),
        ('a,b\n1,"2\n', {"label": "b"}, "is not CSV"),
        ("a,b\n1,x\n2,\n", {"label": "b"}, "is empty in some records"),
        ("a,b\n1,x\n2,x\n", {"label": "b"}, "two or more names"),
        ("a,b\n,x\n,y\n", {"label": "b"}, "holds no value"),
        ("a,b\n1,x\n2,y\x1b\n", {"label": "b"}, "printable"),
        ("a\x1b,b\n1,x\n2,y\n", {"label": "b"}, "do not fit"),
    ],
)
def test_tables_that_are_refused(
    tmp_path: Path, text: str, wishes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        source_of(text_file(tmp_path / "a.csv", text), **wishes)


def test_identifiers_and_quantities_as_labels_are_refused_by_name(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", 1100)
    with pytest.raises(InvalidInput, match="'id' holds text, more than 1000") as caught:
        source_of(path, label="kind")
    assert "--ignore 'id'" in caught.value.fix
    lines = "".join(f"1,{number}\n" for number in range(10_001))
    with pytest.raises(InvalidInput, match="numbers are not predicted"):
        source_of(text_file(tmp_path / "b.csv", "x,y\n" + lines), label="y")


def test_contradicting_wishes_are_a_usage_error(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", CSV)
    with pytest.raises(UsageError, match="--label"):
        source_of(path)
    with pytest.raises(UsageError, match="both"):
        source_of(path, label="y", numeric=("n",), categorical=("n*",))


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_module, "MAX_LINE", 1000)
    path = text_file(tmp_path / "a.csv", "a,b\n1,2\n" + "3" * 5000)
    with pytest.raises(InvalidInput, match="is not CSV"):
        source_of(path, label="b")


@pytest.mark.parametrize("data", [b"a,b\n\xff,1\n", b"a,\xff\n", b"PAR1 but not", b"PAR1"])
def test_files_that_are_something_else(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"a\.csv"):
        source_of(path, label="b")
