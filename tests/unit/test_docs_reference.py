"""The reference names every field, parameter, bound and metric of the code, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from securetrain.api.types import JobSpec, LocalRef, ModelSpec, Resources, Toleration
from securetrain.errors import InvalidInput
from securetrain.sealed.policy import UsagePolicy
from securetrain_trainer.evaluate import METRICS
from securetrain_trainer.parameters import MAX_PARAMETERS, Cnn, Mlp, parameters_of
from support.reference import REFERENCE, rows

AS_IN_A_POD = (LocalRef, Resources, Toleration)
"""Models whose fields Kubernetes documents."""
ROWS = [(kind.__name__.lower(), field) for kind in (Cnn, Mlp) for field in fields(kind)]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def wire_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Paths of all fields on the wire, `[]` for lists, such as `datasets[].name`."""
    for field in model.model_fields.values():
        path = f"{prefix}{field.alias}"
        inner = [each for each in models_in(field.annotation) if each not in AS_IN_A_POD]
        if not inner:
            yield path
        many = "[]" if "tuple" in str(field.annotation) else ""
        for each in inner:
            yield from wire_fields(each, f"{path}{many}.")


def documented_fields() -> set[str]:
    """Paths in the first column: `.b` after `a.x` stands for `a.b`."""
    found: set[str] = set()
    for first, *_rest in rows("`SecureTrainingJob`"):
        prefix = ""
        for name in re.findall(r"`([^`]+)`", first):
            path = prefix + name if name.startswith(".") else name
            prefix = path.rpartition(".")[0]
            found.add(path)
    return found


def test_every_field_of_the_spec_has_its_row() -> None:
    assert documented_fields() == set(wire_fields(JobSpec))


def test_defaults_of_the_spec_are_the_documented_ones() -> None:
    spec = JobSpec.model_validate(
        {
            "datasets": [{"name": "d", "uri": "pvc://data/d"}],
            "model": {"architecture": "cnn"},
            "output": {"uri": "pvc://models/m", "kek": "k"},
        }
    ).to_wire()
    said = {row[0]: row[1].replace("`", "") for row in rows("`SecureTrainingJob`")}
    training, optimizer = spec["training"], spec["training"]["optimizer"]
    assert said["`training.epochs`, `.batchSize`, `.seed`"] == ", ".join(
        str(training[name]) for name in ("epochs", "batchSize", "seed")
    )
    assert said["`training.optimizer.name`, `.learningRate`"] == ", ".join(
        str(optimizer[name]) for name in ("name", "learningRate")
    )
    assert said["`output.ifExists`"] == spec["output"]["ifExists"]
    assert said["`vaultConnectionRef.name`"] == spec["vaultConnectionRef"]["name"]
    for name in ("backoffLimit", "childTTLSecondsAfterFinished"):
        assert said[f"`{name}`"] == str(spec[name])


@pytest.mark.parametrize(("architecture", "field"), ROWS)
def test_parameters_have_their_defaults_and_bounds(architecture: Any, field: Any) -> None:
    table = {(row[0], row[1]): row[2:] for row in rows("Architectures")}
    default, bounds, *_meaning = table[f"`{architecture}`", f"`{field.name}`"]
    assert default == str(field.default)
    low, high = bounds.split(" to ")
    step = 0.01 if "." in low else 1
    for value, inside in (
        (low, True),
        (high, True),
        (type(field.default)(low) - step, False),
        (type(field.default)(high) + step, False),
    ):
        spec = ModelSpec(architecture=architecture, parameters={field.name: str(value)})
        if inside:
            parameters_of(spec)
        else:
            with pytest.raises(InvalidInput):
                parameters_of(spec)


def test_no_parameter_is_documented_that_does_not_exist() -> None:
    said = [(row[0].strip("`"), row[1].strip("`")) for row in rows("Architectures")]
    assert said == [(architecture, field.name) for architecture, field in ROWS]
    assert {architecture for architecture, _ in said} == set(
        get_args(ModelSpec.model_fields["architecture"].annotation)
    )


def test_the_greatest_model_is_documented() -> None:
    assert f"at most {MAX_PARAMETERS:,} weights" in " ".join(REFERENCE.read_text().split())


def test_metrics_that_gates_can_name() -> None:
    assert tuple(row[0].strip("`") for row in rows("Metrics")) == METRICS


def test_every_field_of_the_policy_has_its_rule_and_a_test_that_names_it() -> None:
    said = {row[0].strip("`"): row[2].strip("`") for row in rows("Usage policy")}
    assert list(said) == [f.alias or name for name, f in UsagePolicy.model_fields.items()]
    for field, test in said.items():
        assert f'"{field}"' in (REFERENCE.parents[1] / test).read_text(), field
