from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from securetrain.api import crd, names
from securetrain.api.types import JobSpec
from support.samples import training_job

MAX_BYTES = 60_000


def schema() -> dict[str, Any]:
    definition = crd.custom_resource_definition()
    root = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert isinstance(root, dict)
    return root


def at(path: str) -> dict[str, Any]:
    node = schema()
    for part in path.split("."):
        node = node["items"] if part == "[]" else node["properties"][part]
    return node


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema within a schema."""
    yield node
    for child in node.get("properties", {}).values():
        yield from nodes(child)
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from nodes(node[key])


def test_files_in_the_repository_are_what_the_models_say() -> None:
    regenerate = "run `python -m securetrain.api.crd`"
    assert (crd.REPOSITORY / crd.CRD_PATH).read_text() == crd.crd_yaml(), regenerate
    assert (crd.REPOSITORY / crd.CHART_PATH).read_text() == crd.chart_template(), regenerate


def test_writing_puts_both_files_below_the_given_folder(tmp_path: Any) -> None:
    written = crd.write(tmp_path)
    assert [path.relative_to(tmp_path) for path in written] == [crd.CRD_PATH, crd.CHART_PATH]
    assert yaml.safe_load(written[0].read_text()) == crd.custom_resource_definition()


def test_size_leaves_room_for_client_side_apply() -> None:
    assert len(crd.crd_yaml().encode()) < MAX_BYTES


def test_text_has_no_aliases() -> None:
    assert "&id" not in crd.crd_yaml()


@pytest.mark.parametrize(
    "keyword", ["$ref", "$defs", "title", "const", "exclusiveMaximum", "allOf", "oneOf"]
)
def test_schema_is_structural(keyword: str) -> None:
    assert not [node for node in nodes(schema()) if keyword in node]


def test_every_node_has_a_type_or_is_a_quantity() -> None:
    for node in nodes(schema()):
        assert "type" in node or node.get("x-kubernetes-int-or-string") is True, node


def test_no_object_mixes_properties_with_free_keys() -> None:
    for node in nodes(schema()):
        assert not ("properties" in node and "additionalProperties" in node), node


def test_everything_in_the_spec_is_bounded() -> None:
    """CEL's cost and etcd's size depend on it."""
    for node in nodes(at("spec")):
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node, node
        if node.get("type") == "array":
            assert "maxItems" in node, node
        if "additionalProperties" in node:
            assert "maxProperties" in node, node


def test_every_list_says_how_it_merges() -> None:
    lists = [node for node in nodes(schema()) if node.get("type") == "array"]
    assert len(lists) == 11
    for node in lists:
        kind = node["x-kubernetes-list-type"]
        keys = node.get("x-kubernetes-list-map-keys", [])
        assert (kind == "map") == bool(keys)
        assert set(keys) <= set(node["items"].get("required", [])), "a key must always be there"


def test_required_fields_are_those_without_a_default() -> None:
    assert at("spec")["required"] == ["datasets", "model", "output"]
    assert at("spec.datasets.[]")["required"] == ["name", "uri"]
    assert at("spec.output")["required"] == ["uri", "kek"]


def test_defaults_fill_in_what_the_models_would() -> None:
    filled = defaulted(at("spec"), training_job()["spec"])
    assert JobSpec.model_validate(filled) == JobSpec.model_validate(training_job()["spec"])
    assert filled["training"]["optimizer"] == {"name": "adam", "learningRate": 0.001}
    assert filled["vaultConnectionRef"] == {"name": "default"}


def defaulted(node: dict[str, Any], value: Any) -> Any:
    """What the API server makes of a value: defaults from the outside in."""
    if not isinstance(value, dict) or "properties" not in node:
        return value
    filled = dict(value)
    for key, child in node["properties"].items():
        if key not in filled and "default" in child:
            filled[key] = child["default"]
        if key in filled:
            filled[key] = defaulted(child, filled[key])
    return filled


def test_a_status_has_no_defaults() -> None:
    assert not [node for node in nodes(at("status")) if "default" in node]


def test_immutable_fields_always_exist_so_that_the_rule_can_compare_them() -> None:
    spec = at("spec")
    for name in JobSpec.immutable_fields():
        assert name in spec["required"] or "default" in spec["properties"][name], name


def test_only_suspend_and_seconds_fields_may_change() -> None:
    free = set(at("spec")["properties"]) - set(JobSpec.immutable_fields())
    assert free == {
        "suspend",
        "startingDeadlineSeconds",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
        "childTTLSecondsAfterFinished",
    }
    assert set(JobSpec.immutable_fields()) == set(at("spec")["properties"]) - free


def test_every_default_of_the_model_is_immutable_content_or_changeable() -> None:
    spec = JobSpec.model_validate(training_job()["spec"])
    assert set(spec.run_content()) <= set(JobSpec.immutable_fields())


def test_numbers_and_times_have_formats() -> None:
    assert at("spec.training.epochs")["format"] == "int32"
    assert at("status.audit.records")["format"] == "int64"
    assert at("spec.training.optimizer.learningRate") == {
        "type": "number",
        "description": "Step size.",
        "format": "double",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 10,
        "default": 0.001,
    }
    assert at("status.conditions.[].lastTransitionTime")["format"] == "date-time"
    assert at("status.grants.[].time")["format"] == "date-time"


def test_fields_are_described_for_kubectl_explain() -> None:
    assert at("spec.output.ifExists")["description"].startswith("What to do")
    assert at("spec.training")["description"] == "How to train."


def test_printer_columns_name_paths_of_the_status() -> None:
    version = crd.custom_resource_definition()["spec"]["versions"][0]
    shown = [column["name"] for column in version["additionalPrinterColumns"]]
    assert shown == ["Phase", "Progress", "Certified", "Accuracy", "Age", "Reason"]


def test_names_agree_with_the_code() -> None:
    definition = crd.custom_resource_definition()
    assert definition["metadata"]["name"] == names.CRD_NAME
    assert definition["spec"]["names"]["shortNames"] == ["stj"]
