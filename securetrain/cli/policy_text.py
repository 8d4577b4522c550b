"""Usage policies as people write them: YAML beside JSON, and the JSON Schema of both.

What is sealed is always strict JSON. YAML is turned into it once, before it is sealed or compared,
so that nobody ever has to agree on what a YAML file means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from securetrain import strict_yaml
from securetrain.api.gateway import MAX_POLICY_BYTES
from securetrain.errors import ManifestInvalid
from securetrain.sealed import strict_json
from securetrain.sealed.policy import UsagePolicy
from securetrain.strict_yaml import YamlError

SUFFIXES: Final = (".yaml", ".yml")
"""Names of files that hold YAML; all others hold JSON."""
SCHEMA_ID: Final = "https://securetrain.dev/schemas/policy.schema.json"


def from_yaml(data: bytes) -> bytes:
    """A policy in YAML as the bytes of policy.json; the same text gives the same bytes.

    Raises:
        ManifestInvalid: it is not YAML of one policy; the field is named.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise ManifestInvalid(f"the policy has more than {MAX_POLICY_BYTES} bytes.")
    try:
        documents = strict_yaml.load_all(data.decode())
    except (YamlError, UnicodeDecodeError) as problem:
        said = str(problem) if isinstance(problem, YamlError) else "is not text in UTF-8"
        raise ManifestInvalid(f"the policy {said}.") from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ManifestInvalid("the policy is not one mapping of fields.")
    text = json.dumps(_decimals_as_text(documents[0])).encode()
    policy = strict_json.parse(UsagePolicy, text, name="the policy", limit=MAX_POLICY_BYTES)
    return strict_json.dump(policy)


def to_yaml(policy: UsagePolicy) -> str:
    """A policy as YAML, with a comment that explains each field."""
    return "\n".join(_commented(policy)) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of a usage policy."""
    found = UsagePolicy.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **found,
        "title": "securetrain usage policy",
        "description": "Who may train what with a sealed dataset, until when.",
    }


def schema_text() -> str:
    """The JSON Schema as a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _decimals_as_text(value: Any) -> Any:
    """Numbers as the text that stands for them in JSON: policies hold no other numbers."""
    if isinstance(value, Mapping):
        return {key: _decimals_as_text(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_decimals_as_text(entry) for entry in value]
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _commented(policy: UsagePolicy) -> Iterator[str]:
    values = policy.to_wire()
    for name, field in UsagePolicy.model_fields.items():
        if field.description:
            yield f"# {' '.join(field.description.split())}"
        key = field.alias or name
        style = None if isinstance(values[key], list) else False  # lists on one line
        text = yaml.safe_dump({key: values[key]}, default_flow_style=style, sort_keys=False)
        yield text.rstrip("\n")
