"""A manifest is refused before it is sent, in the words of the API server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from securetrain.api import crd
from securetrain.api.types import Gate
from securetrain.cli.manifests import parse_gate, read_job
from securetrain.errors import InvalidInput
from securetrain.sealed.policy import RequiredGate
from support.samples import training_job


def read(tmp_path: Path, job: dict[str, Any]) -> dict[str, Any]:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    return read_job(file)


def cel_messages() -> set[str]:
    return set(re.findall(r"message: (.+)", crd.crd_yaml().replace("''", "'")))


WITHIN = "output.uri and a dataset's uri must not lie within one another"
FOLDER = "output.uri must name a folder of its claim or bucket, such as pvc://models/digits-v7"
CROSSED = "a gate's min must not be above its max"
STORAGE = "an s3:// uri needs a storageRef, and no other uri may have one"
TWICE = "metric accuracy stands there twice"


def output(uri: str, storage: str | None = None) -> dict[str, Any]:
    return {"output": {"uri": uri, "kek": "team-a-models"} | ref(storage)}


def dataset(uri: str, storage: str | None = None) -> dict[str, Any]:
    return {"datasets": [{"name": "digits", "uri": uri} | ref(storage)]}


def ref(storage: str | None) -> dict[str, Any]:
    return {} if storage is None else {"storageRef": {"name": storage}}


def gates(*gates: dict[str, Any]) -> dict[str, Any]:
    return {"certification": {"gates": list(gates)}}


@pytest.mark.parametrize(
    ("spec", "field", "said"),
    [
        (output("pvc://models"), "spec.output.uri", FOLDER),
        (output("pvc://datasets/digits"), "spec.output", WITHIN),
        (output("pvc://datasets/digits/model"), "spec.output", WITHIN),
        (
            {"datasets": [{"name": "digits", "uri": "pvc://models/digits-v7/data"}]},
            "spec.output",
            WITHIN,
        ),
        ({"datasets": [{"name": "digits", "uri": "pvc://models"}]}, "spec.output", WITHIN),
        (gates({"metric": "accuracy"}), "spec.certification.gates.0", "a gate needs min or max"),
        (
            gates({"metric": "accuracy", "min": 1, "max": 0}),
            "spec.certification.gates.0",
            CROSSED,
        ),
        (gates(*[{"metric": "accuracy", "min": 1}] * 2), "spec.certification.gates", TWICE),
        ({"pod": {"imagePullSecrets": [{"name": "x"}] * 2}}, "spec.pod.imagePullSecrets", "twice"),
        ({"epochs": 5}, "spec.epochs", "unknown field"),
        (output("s3://models/digits-v7"), "spec.output", STORAGE),
        (output("pvc://models/digits-v7", "minio"), "spec.output", STORAGE),
        (output("s3://models", "minio"), "spec.output.uri", FOLDER),
        (output("s3://m/x", "minio"), "spec.output.uri", "pattern"),
        (dataset("s3://data/digits"), "spec.datasets.0", STORAGE),
        (dataset("pvc://data/digits", "minio"), "spec.datasets.0", STORAGE),
    ],
)
def test_a_wrong_spec_is_refused_by_name(
    tmp_path: Path, spec: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, training_job(**spec))
    assert refused.value.field == field
    assert said in refused.value.message


@pytest.mark.parametrize("said", [WITHIN, FOLDER, CROSSED, STORAGE, "a gate needs min or max"])
def test_the_words_are_those_of_the_api_server(said: str) -> None:
    assert said in cel_messages()


@pytest.mark.parametrize(
    "spec",
    [
        output("pvc://datasets/digits-v7"),
        output("pvc://datasets/digit"),
        output("s3://datasets/digits/model", "minio"),
        dataset("s3://data", "minio"),
        gates({"metric": "accuracy", "min": 0.5, "max": 0.5}, {"metric": "loss", "max": 1}),
    ],
)
def test_a_neighbour_of_the_dataset_and_touching_bounds_are_fine(
    tmp_path: Path, spec: dict[str, Any]
) -> None:
    job = training_job(**spec)
    assert read(tmp_path, job) == job


def test_gates_on_the_command_line() -> None:
    assert parse_gate(Gate, "accuracy>=0.97") == Gate(metric="accuracy", min=0.97)
    assert parse_gate(RequiredGate, "loss<=0.1") == RequiredGate(metric="loss", max="0.1")


@pytest.mark.parametrize("text", ["accuracy", "accuracy=1", "a>=1.0000000000", f"{'a' * 64}>=1"])
def test_what_is_no_gate_is_the_users_mistake_and_no_bug(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a gate"):
        parse_gate(RequiredGate, text)
