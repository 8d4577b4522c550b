"""YAML as Kubernetes reads it, from files that people write: one meaning per document.

What PyYAML's safe loader reads otherwise than Kubernetes, or lets pass, is refused or put right: a
key that stands there twice, `1e-3`, which is a number, a date, which is text, and a document that
grows beyond measure by its anchors.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

MAX_VALUES: Final = 20_000
MAX_INTEGER: Final = 2**64 - 1
FLOAT: Final = "tag:yaml.org,2002:float"
DATE: Final = "tag:yaml.org,2002:timestamp"


class YamlError(ValueError):
    """What is wrong with a document, in words that can follow its name."""


def load_all(text: str) -> list[Any]:
    """The documents of a file, empty ones left out; raises YamlError."""
    try:
        documents = [one for one in yaml.load_all(text, Loader=_Loader) if one is not None]
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise YamlError(f"is not YAML{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlError(f"is not YAML ({type(error).__name__})") from None
    for document in documents:
        _require_json(document)
    return documents


class _Loader(yaml.SafeLoader):
    """A safe loader with the rules above."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """What a node stands for; PyYAML trusts that a tag such as `!!int` fits its value."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            raise yaml.constructor.ConstructorError(
                None, None, f"a value is no {node.tag.rpartition(':')[2]}", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are text, each once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                name = str(key.value)[:64] if isinstance(key, yaml.ScalarNode) else "a list or map"
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} stands there twice or is no text", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != DATE]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    FLOAT, re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _require_json(document: Any) -> None:
    """The document is made of what JSON knows, and of no more than `MAX_VALUES`."""
    ahead, count = [document], 0
    while ahead:
        value, count = ahead.pop(), count + 1
        if count > MAX_VALUES:
            raise YamlError(f"holds more than {MAX_VALUES} values")
        if isinstance(value, dict):
            ahead.extend(value.values())
            if not all(isinstance(key, str) for key in value):
                raise YamlError("has a key that is no text: put it in quotes")
        elif isinstance(value, list):
            ahead.extend(value)
        elif not isinstance(value, str | int | float | None):
            raise YamlError(f"holds a {type(value).__name__}, which JSON does not know")
        elif isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise YamlError("holds an integer of more than 64 bits")
        elif isinstance(value, float) and value - value != 0:
            raise YamlError("holds a number that is not finite")
