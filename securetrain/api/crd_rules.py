"""The CRD's CEL rules: what the API server must refuse and a type cannot say.

They are written from the tables and in the words of `securetrain.api.rules` and of the models.
"""

from __future__ import annotations

from typing import Any, Final

from securetrain.api import rules, types

Schema = dict[str, Any]

RULES: Final = "x-kubernetes-validations"


def add_rules(spec: Schema) -> None:
    """Add the rules to the schema of a job's spec."""
    fields = spec["properties"]
    spec[RULES] = [_immutable(), _apart()]
    storage = _rule("self.uri.startsWith('s3://') == has(self.storageRef)", types.STORAGE_REF)
    fields["datasets"]["items"][RULES] = [storage]
    folder = _rule("self.uri.matches('^[a-z0-9]+://[^/]+/.+')", types.NO_FOLDER)
    fields["output"][RULES] = [folder, storage]
    fields["model"][RULES] = _architectures()
    fields["model"]["properties"]["parameters"][RULES] = _parameters()
    certification, pod = fields["certification"]["properties"], fields["pod"]["properties"]
    certification["gates"]["items"][RULES] = _gates()
    for resources in (certification["resources"], pod["resources"]):
        resources[RULES] = _resources()
    key = f"self.all(key, key.matches({_text(rules.QUALIFIED_NAME)}))"
    pod["nodeSelector"][RULES] = [_rule(key, rules.SELECTOR_KEY)]
    pod["tolerations"]["items"][RULES] = _tolerations()


def _rule(rule: str, message: str) -> Schema:
    return {"rule": rule, "message": message}


def _immutable() -> Schema:
    names = types.JobSpec.immutable_fields()
    return _rule(
        " && ".join(f"self.{name} == oldSelf.{name}" for name in names),
        "one object is one run: only suspend and the *Seconds fields may change;"
        " give the changed run a new metadata.name",
    )


def _apart() -> Schema:
    return _rule(
        "self.datasets.all(d, !(self.output.uri + '/').startsWith(d.uri + '/')"
        " && !(d.uri + '/').startsWith(self.output.uri + '/'))",
        types.OVERLAP,
    )


def _architectures() -> list[Schema]:
    return [
        _rule(
            f"self.architecture != '{name}' || self.parameters.all(key, key in {_list(known)})",
            rules.unknown_parameter(name),
        )
        for name, known in rules.PARAMETERS.items()
    ]


def _parameters() -> list[Schema]:
    return [_parameter(name) for name in rules.BOUNDS]


def _parameter(name: str) -> Schema:
    low, high = rules.BOUNDS[name]
    whole = isinstance(low, int)
    form = _text(f"^{rules.WHOLE if whole else rules.DECIMAL}$")
    text, number = f"self['{name}']", f"{'int' if whole else 'double'}(self['{name}'])"
    inside = f"{text}.matches({form}) && {number} >= {low} && {number} <= {high}"
    return _rule(f"!('{name}' in self) || ({inside})", rules.out_of_bounds(name))


def _gates() -> list[Schema]:
    return [
        _rule("has(self.min) || has(self.max)", types.NO_BOUND),
        _rule("!has(self.min) || !has(self.max) || self.min <= self.max", types.CROSSED_BOUNDS),
        _rule(f"self.metric in {_list(rules.METRICS)}", rules.NOT_MEASURED),
        _rule(
            "(!has(self.min) || self.min >= 0.0) && (!has(self.max) || self.max >= 0.0)",
            rules.NEGATIVE,
        ),
        _rule(
            f"!(self.metric in {_list(rules.SHARES)}) ||"
            " ((!has(self.min) || self.min <= 1.0) && (!has(self.max) || self.max <= 1.0))",
            rules.OUT_OF_RANGE,
        ),
    ]


def _resources() -> list[Schema]:
    known = f"key in {_list(rules.OWN_RESOURCES)} || key.contains('/')"
    both = "quantity(string(self.requests[key])), quantity(string(self.limits[key]))"
    request, limit = both.split(", ")
    return [
        _rule(f"!has(self.{part}) || self.{part}.all(key, {known})", rules.RESOURCE_NAME)
        for part in ("requests", "limits")
    ] + [
        _rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(key,"
            f" !(key in self.limits) || {request}.compareTo({limit}) <= 0)",
            rules.MORE_THAN_LIMIT,
        )
    ]


def _tolerations() -> list[Schema]:
    exists = "(has(self.operator) && self.operator == 'Exists')"
    no_value = "!has(self.value) || self.value == ''"
    key = "(has(self.key) && self.key != '')"
    no_execute = "(has(self.effect) && self.effect == 'NoExecute')"
    return [
        _rule(f"!{exists} || {no_value}", rules.VALUE_OF_EXISTS),
        _rule(f"{key} || {exists}", rules.KEYLESS),
        _rule(f"!has(self.tolerationSeconds) || {no_execute}", rules.SECONDS_WITHOUT_EFFECT),
    ]


def _list(names: Any) -> str:
    return f"[{', '.join(repr(str(name)) for name in names)}]"


def _text(text: str) -> str:
    """A raw CEL string, in which a backslash is one."""
    return f"r'{text}'"
