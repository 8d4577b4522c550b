"""Usage policies as owners write them: new, check against a job, YAML, the schema for editors."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from securetrain.cli import main as cli
from securetrain.cli import policy_text
from securetrain.cli.policies import read_policy
from securetrain.errors import ExitCode
from securetrain.sealed.policy import UsagePolicy, parse_policy
from securetrain.sealed.strict_json import dump

SHIPPED = Path(__file__).parents[2] / "docs" / "policy.schema.json"
POLICY: dict[str, Any] = {
    "format": "securetrain/policy/v1",
    "namespaces": ["team-a"],
    "images": ["builtin"],
    "outputKeks": ["team-a-models"],
    "gates": [{"metric": "accuracy", "min": "0.95"}],
    "notAfter": "2099-01-01T00:00:00Z",
}
YAML = """
# who may train
format: securetrain/policy/v1
namespaces: [team-a]
images:
  - builtin
outputKeks: [team-a-models]
gates:
  - {metric: accuracy, min: 0.95}
notAfter: 2099-01-01T00:00:00Z
"""
JOB: dict[str, Any] = {
    "apiVersion": "securetrain.dev/v1alpha1",
    "kind": "SecureTrainingJob",
    "metadata": {"name": "digits-v1", "namespace": "team-a"},
    "spec": {
        "datasets": [{"name": "digits", "uri": "pvc://datasets/digits"}],
        "model": {"architecture": "cnn"},
        "certification": {"gates": [{"metric": "accuracy", "min": 0.97}]},
        "output": {"uri": "pvc://models/digits-v1", "kek": "team-a-models"},
    },
}
OTHER_IMAGE = "registry.example/x@sha256:" + "b" * 64


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(POLICY))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def job(folder: Path, namespace: str | None = "team-a", **spec: Any) -> Path:
    """A job that the policy allows, with parts of its spec replaced."""
    path = folder / "job.yaml"
    metadata = {"name": "digits-v1", **({"namespace": namespace} if namespace else {})}
    path.write_text(yaml.safe_dump({**JOB, "metadata": metadata, "spec": {**JOB["spec"], **spec}}))
    return path


def test_new_policy_is_valid_and_asks_for_all_it_was_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--namespace", "a", "--namespace", "b", "--output-kek", "k", "--gate", "loss<=0.10"]
    code, out, _ = run(capsys, "new", "policy", *options)
    assert code == 0
    policy = json.loads(out)
    assert policy["namespaces"] == ["a", "b"]
    assert policy["images"] == ["builtin"]
    assert policy["gates"] == [{"metric": "loss", "max": "0.10"}]
    assert policy["networkIsolation"] is True
    (tmp_path / "p.json").write_text(out)
    assert run(capsys, "policy", "check", tmp_path / "p.json")[0] == 0


def test_a_new_policy_in_yaml_explains_its_fields_and_says_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["new", "policy", "--namespace", "a", "--output-kek", "k", "--gate", "loss<=0.10"]
    as_json = run(capsys, *options)[1]
    as_yaml = run(capsys, *options, "--yaml")[1]
    (tmp_path / "p.yaml").write_text(as_yaml)
    assert read_policy(tmp_path / "p.yaml")[0] == as_json.encode()
    assert as_yaml.count("\n# ") >= 5


@pytest.mark.parametrize(
    ("option", "value"),
    [("--namespace", "A"), ("--output-kek", "../x"), ("--image", "latest"), ("--gate", "accuracy")],
)
def test_new_policy_names_the_wrong_option(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    good = {"--namespace": "a", "--output-kek": "k", option: value}
    arguments = [part for pair in good.items() for part in pair]
    code, out, err = run(capsys, "new", "policy", *arguments)
    assert (code, out) == (ExitCode.CONFIGURATION, "")
    assert err.startswith(f"error: {option}")


def test_a_job_that_is_allowed(
    capsys: pytest.CaptureFixture[str], policy: Path, tmp_path: Path
) -> None:
    code, out, err = run(capsys, "policy", "check", policy, "--job", job(tmp_path))
    assert (code, err) == (0, "")
    assert "allows the job" in out


DENIED: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "namespace": (
        {"namespace": "team-b"},
        "namespaces",
        "metadata.namespace",
        "team-b",
        "team-a",
    ),
    "image": ({"pod": {"image": OTHER_IMAGE}}, "images", "spec.pod.image", OTHER_IMAGE, "builtin"),
    "KEK": (
        {"output": {"uri": "pvc://models/x", "kek": "mine"}},
        "outputKeks",
        "spec.output.kek",
        "mine",
        "team-a-models",
    ),
    "weaker gate": (
        {"certification": {"gates": [{"metric": "accuracy", "min": 0.5}]}},
        "gates",
        "spec.certification.gates",
        "accuracy ≥ 0.5",
        "accuracy ≥ 0.95 or stricter",
    ),
    "no gate": (
        {"certification": {}},
        "gates",
        "spec.certification.gates",
        "nothing of accuracy",
        "accuracy ≥ 0.95 or stricter",
    ),
}


@pytest.mark.parametrize("name", DENIED)
def test_a_denial_says_which_rule_what_the_job_said_and_what_would_pass(
    capsys: pytest.CaptureFixture[str], policy: Path, tmp_path: Path, name: str
) -> None:
    change, rule, field, said, allowed = DENIED[name]
    command = ["policy", "check", policy, "--job", job(tmp_path, **change)]
    code, out, err = run(capsys, *command)
    assert (code, out) == (ExitCode.REFUSED, "")
    assert f"✗ {rule}: the job says {said}, the data owner allows {allowed}" in err
    assert f"fix: change {field}, or ask" in err
    code, out, _ = run(capsys, *command, "-o", "json")
    assert code == ExitCode.REFUSED
    told = json.loads(out)
    assert told["allowed"] is False
    assert told["denials"] == [{"rule": rule, "field": field, "said": said, "allowed": allowed}]


def test_all_rules_that_deny_are_told_at_once(
    capsys: pytest.CaptureFixture[str], policy: Path, tmp_path: Path
) -> None:
    wrong = job(tmp_path, "team-b", output={"uri": "pvc://models/x", "kek": "mine"})
    code, _, err = run(capsys, "policy", "check", policy, "--job", wrong)
    assert code == ExitCode.REFUSED
    assert err.count("✗ ") == 2
    assert "by namespaces, outputKeks" in err


def test_a_policy_that_has_ended_denies_and_says_so(
    capsys: pytest.CaptureFixture[str], policy: Path, tmp_path: Path
) -> None:
    policy.write_text(json.dumps({**POLICY, "notAfter": "2020-01-01T00:00:00Z"}))
    code, _, err = run(capsys, "policy", "check", policy, "--job", job(tmp_path))
    assert code == ExitCode.REFUSED
    assert "use before 2020-01-01T00:00:00Z" in err
    assert "warning: notAfter: it ended" in run(capsys, "policy", "check", policy)[2]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"gates": [{"metric": "acuracy", "min": "0.9"}]}, "nothing measures acuracy"),
        ({"networkIsolation": False}, "anywhere"),
        ({"notAfter": f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"}, "a week"),
    ],
)
def test_what_is_hardly_meant_is_a_warning(
    capsys: pytest.CaptureFixture[str], policy: Path, change: dict[str, Any], note: str
) -> None:
    policy.write_text(json.dumps({**POLICY, **change}))
    code, _, err = run(capsys, "policy", "check", policy)
    assert code == 0
    assert note in err
    assert note in str(json.loads(run(capsys, "policy", "check", policy, "-o", "json")[1])["notes"])


def test_policy_check_needs_a_namespace(
    capsys: pytest.CaptureFixture[str], policy: Path, tmp_path: Path
) -> None:
    nowhere = job(tmp_path, None)
    command = ["policy", "check", policy, "--job", nowhere]
    assert run(capsys, *command)[0] == ExitCode.CONFIGURATION
    assert run(capsys, *command, "-n", "team-a")[0] == 0
    assert run(capsys, *command, "-n", "team-b")[0] == ExitCode.REFUSED


def test_a_misspelt_policy_is_the_users_mistake(
    capsys: pytest.CaptureFixture[str], policy: Path
) -> None:
    policy.write_text(policy.read_text().replace("outputKeks", "outputKek"))
    code, _, err = run(capsys, "policy", "check", policy)
    assert code == ExitCode.CONFIGURATION
    assert "outputKek:" in err
    assert "unknown field" in err


def test_yaml_becomes_strict_json_before_it_is_sealed(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(YAML)
    data, policy = read_policy(path)
    assert data == dump(parse_policy(json.dumps(POLICY).encode()))
    assert policy.gates[0].min == "0.95"
    path.write_text(
        YAML.replace("  - {metric: accuracy, min: 0.95}", '  - metric: accuracy\n    min: "0.95"')
    )
    assert read_policy(path)[0] == data


def test_json_is_sealed_as_it_stands(policy: Path) -> None:
    assert read_policy(policy)[0] == policy.read_bytes()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (YAML + "namespaces: [team-b]\n", "twice"),
        (YAML + "---\n" + YAML, "one mapping"),
        ("- a\n", "one mapping"),
        (YAML.replace("[team-a]", "!!python/name:os.system"), "YAML"),
        (YAML.replace("min: 0.95", "min: .nan"), "finite"),
        (YAML + "maxUses: 3\n", "maxUses"),
        (YAML + "networkIsolation: 'no'\n", "networkIsolation"),
        (YAML + "# " + "x" * 65_536, "more than 65536"),
        ("a: [", "YAML in line"),
    ],
    ids=["twice", "two", "list", "tag", "nan", "unknown", "text", "long", "syntax"],
)
def test_yaml_has_one_meaning_or_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    code, out, err = run(capsys, "policy", "check", path)
    assert (code, out) == (ExitCode.CONFIGURATION, "")
    assert says in err
    assert "Traceback" not in err


def test_the_shipped_schema_is_the_one_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "policy", "schema")
    assert code == 0
    assert SHIPPED.read_text() == out, "securetrain policy schema > docs/policy.schema.json"
    for form in ("json", "text"):
        assert run(capsys, "policy", "schema", "--output", form)[:2] == (0, out)


def test_the_schema_takes_what_the_parser_takes_and_explains_every_field() -> None:
    schema = json.loads(SHIPPED.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(POLICY)
    assert validator.is_valid(policy_text.strict_yaml.load_all(YAML.replace("0.95", "'0.95'"))[0])
    for wrong in (
        {"namespaces": []},
        {"namespaces": ["*"]},
        {"images": ["registry.example/x:latest"]},
        {"outputKeks": ["../x"]},
        {"notAfter": "tomorrow"},
        {"gates": [{"metric": "accuracy", "min": 0.9}]},
        {"networkIsolation": "yes"},
        {"maxUses": 3},
    ):
        assert not validator.is_valid({**POLICY, **wrong}), wrong
    documented = {name for name, field in schema["properties"].items() if "description" in field}
    wire = {field.alias for field in UsagePolicy.model_fields.values()}
    assert documented | {"format"} == wire
