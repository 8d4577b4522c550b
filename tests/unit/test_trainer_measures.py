"""Parameters, measures, gates, the report and its page: pure functions."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securetrain.api.names import Purpose
from securetrain.api.types import Gate, Metric, ModelSpec
from securetrain.errors import InvalidInput
from securetrain.sealed.dataset import load_dataset
from securetrain.sealed.model import parse_model
from securetrain.secret import Secret
from securetrain_trainer import evaluate, page, report, runtime, seal
from securetrain_trainer.evaluate import judge, measure
from securetrain_trainer.parameters import Cnn, Mlp, check_fits, parameters_of
from securetrain_trainer.phase import StoredModel
from securetrain_trainer.ports import Keys
from securetrain_trainer.store import open_folder
from support.trainer_kit import UID, WRAPPED, run_spec, seal_dataset


@pytest.mark.parametrize(
    ("architecture", "parameters", "field"),
    [
        ("cnn", {"filters": "0"}, "model.parameters.filters"),
        ("cnn", {"filters": "many"}, "model.parameters.filters"),
        ("cnn", {"filters": "1e3"}, "model.parameters.filters"),
        ("cnn", {"dropout": "nan"}, "model.parameters.dropout"),
        ("cnn", {"dropout": "0.95"}, "model.parameters.dropout"),
        ("cnn", {"hidden": "3"}, "model.parameters.hidden"),
        ("mlp", {"layers": "17"}, "model.parameters.layers"),
    ],
)
def test_wrong_parameters_are_named(
    architecture: Any, parameters: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        parameters_of(ModelSpec(architecture=architecture, parameters=parameters))
    assert caught.value.field == field
    assert caught.value.fix


def test_parameters_have_types_and_defaults() -> None:
    cnn = parameters_of(ModelSpec(architecture="cnn", parameters={"dropout": "0.5"}))
    assert cnn == Cnn(dropout=0.5)
    assert parameters_of(ModelSpec(architecture="mlp", parameters={"hidden": "7"})) == Mlp(7)


def test_a_model_that_would_not_fit_is_refused_before_it_is_built() -> None:
    huge = ModelSpec(architecture="mlp", parameters={"hidden": "8192", "layers": "16"})
    with pytest.raises(InvalidInput, match="weights"):
        check_fits(huge, (512, 512, 3), 10)
    with pytest.raises(InvalidInput, match="4×4"):
        check_fits(ModelSpec(architecture="cnn"), (3, 28, 1), 10)


def test_measures_of_a_known_case() -> None:
    labels = np.array([0, 0, 1, 1])
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]))
    logits = np.pad(logits, ((0, 0), (0, 1)), constant_values=-50)
    shown = measure(logits, labels, 3)
    assert shown.accuracy == 0.75
    assert shown.class_accuracy == (1.0, 0.5, None)
    assert shown.class_records == (2, 2, 0)
    assert shown.worst_class_accuracy == 0.5
    assert shown.macro_recall == 0.75
    assert shown.confusion == ((0, 0, 2), (1, 0, 1), (1, 1, 1))
    assert shown.loss == pytest.approx((3 * -np.log(0.9) - np.log(0.1)) / 4)
    assert shown.expected_calibration_error == pytest.approx(0.15)
    assert [m.name for m in shown.metrics()] == list(evaluate.METRICS)
    assert shown.metrics()[0].value == "0.750000"


def test_large_logits_do_not_overflow() -> None:
    shown = measure(np.array([[1e6, -1e6], [-1e6, 1e6]]), np.array([0, 1]), 2)
    assert shown.loss == 0.0
    assert shown.accuracy == 1.0


def test_only_a_finite_published_value_passes_a_gate() -> None:
    gates = (Gate(metric="accuracy", min=0.97), Gate(metric="loss", max=0.1))
    values = (Metric(name="accuracy", value="0.970000"), Metric(name="loss", value="nan"))
    first, second = judge(gates, values)
    assert first.passed
    assert not second.passed
    assert second.sentence == "loss nan, wanted ≤ 0.1"
    assert not judge(gates, ())[0].passed
    assert not judge((Gate(metric="loss", max=2),), (Metric(name="loss", value="-inf"),))[0].passed
    with pytest.raises(InvalidInput, match="robustness"):
        evaluate.check_gates_known((Gate(metric="robustness", min=1),))


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    """A report on a model of three classes, one of whose names is hostile."""
    deks = seal_dataset(tmp_path / "data")
    dataset = load_dataset(tmp_path / "data")
    run = run_spec(tmp_path, Purpose.CERTIFY)
    metrics = tuple(Metric(name=f"valAccuracy.{n}", value=f"0.9{n}0000") for n in range(4))
    metrics += (Metric(name="valAccuracy.x", value="<b>"),)
    (tmp_path / "model").mkdir()
    with open_folder(str(tmp_path / "model")) as folder:
        digests = seal.seal_model(
            folder, run, dataset, Keys(deks, Secret(bytes(32)), WRAPPED), b"weights", metrics
        )
    stored = StoredModel(
        parse_model((tmp_path / "model" / "model.json").read_bytes()), b"", digests
    )
    shown = measure(np.eye(3)[[0, 1, 2, 0]] * 9, np.array([0, 1, 2, 1]), 3)
    value = report.make_report(run, dataset, stored, shown, judge(run.gates, shown.metrics()))
    value["evaluation"]["classes"][0]["label"] = "<script>alert(1)</script>"
    return value


def test_the_report_is_canonical_and_repeatable(made: dict[str, Any]) -> None:
    data = report.report_bytes(made)
    assert json.loads(data) == made
    assert data == report.report_bytes(json.loads(data))
    assert made["verdict"] == "gatesMissed"
    assert made["job"]["uid"] == UID
    assert made["gates"] == [
        {"metric": "accuracy", "rule": "≥ 0.9", "value": "0.750000", "passed": False}
    ]


class Page(HTMLParser):
    """Collects tags and whatever would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [name for name, _ in attrs if name in {"src", "href", "onload", "onerror"}]


def test_the_page_is_self_contained_and_escapes_everything(made: dict[str, Any]) -> None:
    text = page.render(made)
    parsed = Page()
    parsed.feed(text)
    assert "script" not in parsed.tags
    assert parsed.loads == []
    assert "&lt;script&gt;" in text
    assert "default-src 'none'" in text
    assert "Gates missed" in text
    assert "polyline" in parsed.tags
    assert "<b>" not in text.split("Validation accuracy while training")[1].split("</section>")[0]


def test_many_classes_are_listed_instead_of_drawn(made: dict[str, Any]) -> None:
    many = dict(made["evaluation"])
    many["classes"] = [
        {"label": f"c{n}", "records": 1, "accuracy": "1.000000" if n else ""} for n in range(40)
    ]
    many["confusion"] = [[0, 1, 5], [2, 2, 9]]
    text = page.render({**made, "evaluation": many, "gates": [], "verdict": "evaluated"})
    assert "matrix" not in text.split("<body>")[1]
    assert "<td>c0</td><td>c1</td>" in text
    assert "no examples" in text


def test_verdicts() -> None:
    good = judge((Gate(metric="loss", max=1),), (Metric(name="loss", value="0.5"),))
    assert report.verdict_of(()) == "evaluated"
    assert report.verdict_of(good) == "certified"


@pytest.mark.parametrize(
    ("text", "most"), [("max 100000", 10_000), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_threads_follow_the_pods_share_of_cpus(text: str, most: int) -> None:
    assert 1 <= runtime.cpus(text) <= most
