"""Manifests of SecureTrainingJobs: read from people's files, and written for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import ValidationError

from securetrain import strict_yaml
from securetrain.api.names import API_VERSION, KIND
from securetrain.api.types import JOB_NAME, MAX_JOB_NAME, Gate, JobSpec
from securetrain.cli.user_files import read_text
from securetrain.errors import InvalidInput
from securetrain.sealed.policy import RequiredGate
from securetrain.strict_yaml import YamlError
from securetrain.validation import first_problem, parse_strictly

SEE_REFERENCE: Final = "correct it; docs/reference.md says what each field takes"
GATE: Final = re.compile(r"([a-z][A-Za-z0-9.]*)(>=|<=)(-?[0-9]+(?:\.[0-9]+)?)")

GateT = TypeVar("GateT", Gate, RequiredGate)


def read_job(path: Path) -> dict[str, Any]:
    """The one SecureTrainingJob in a YAML or JSON file; raises InvalidInput naming a field."""
    try:
        documents = strict_yaml.load_all(read_text("FILE", path))
    except YamlError as problem:
        raise InvalidInput("FILE", str(path), str(problem), fix="correct the file") from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise InvalidInput("FILE", str(path), "does not hold exactly one object", fix="keep one")
    return check_job(documents[0])


def check_job(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest, if it fits the resource's types; raises InvalidInput naming a field."""
    kind = (manifest.get("apiVersion"), manifest.get("kind"))
    if kind != (API_VERSION, KIND):
        field = "kind" if kind[0] == API_VERSION else "apiVersion"
        wrong = kind[1] if field == "kind" else kind[0]
        raise InvalidInput(field, wrong, "is not ours", fix=f"use {API_VERSION}, kind {KIND}")
    metadata = manifest.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or len(name) > MAX_JOB_NAME or not re.fullmatch(JOB_NAME, name):
        raise InvalidInput(
            "metadata.name",
            name,
            f"is not a DNS label that starts with a letter, of at most {MAX_JOB_NAME} characters",
            fix="use lower-case letters, digits and hyphens",
        )
    parse_spec(manifest.get("spec"))
    return manifest


def namespace_of(manifest: Mapping[str, Any], asked: str | None) -> str | None:
    """The namespace of a checked manifest, else the one asked for; raises InvalidInput.

    As with kubectl, the two must not contradict each other.
    """
    own = manifest["metadata"].get("namespace")
    if own is None:
        return asked
    if not isinstance(own, str) or (asked is not None and asked != own):
        raise InvalidInput(
            "metadata.namespace",
            own,
            f"is not the namespace asked for, {asked}" if asked else "is not a name",
            fix="correct the file, or leave -n away",
        )
    return own


def parse_spec(spec: Any) -> JobSpec:
    """Parse `spec`; raises InvalidInput naming the first wrong field."""
    try:
        return parse_strictly(JobSpec, spec)
    except ValidationError as error:
        raise first_problem(error).error(within="spec", fix=SEE_REFERENCE) from None


def parse_gate(kind: type[GateT], text: str) -> GateT:
    """A job's or a policy's gate from text such as `accuracy>=0.97`; raises InvalidInput."""
    match = GATE.fullmatch(text)
    if match is None:
        raise _no_gate(text, "write METRIC>=NUMBER or METRIC<=NUMBER")
    metric, sign, bound = match.groups()
    try:
        return kind.model_validate({"metric": metric, "min" if sign == ">=" else "max": bound})
    except ValidationError as error:
        raise _no_gate(text, first_problem(error).message) from None


def _no_gate(text: str, fix: str) -> InvalidInput:
    return InvalidInput("--gate", text, "is not a gate", fix=fix)


def new_job(
    *,
    name: str,
    namespace: str | None,
    dataset: str,
    storage: str | None,
    digest: str | None,
    architecture: str,
    epochs: int,
    gates: tuple[Gate, ...],
    output: str,
    kek: str,
) -> dict[str, Any]:
    """A job that is ready to submit; `storage` is the connection of its s3:// addresses."""
    if storage and not any(uri.startswith("s3://") for uri in (dataset, output)):
        fix = "leave it away, or give an s3:// address"
        raise InvalidInput("--storage", storage, "is needed by neither address", fix=fix)
    spec: Mapping[str, Any] = {
        "datasets": [
            {
                "name": dataset.rstrip("/").rpartition("/")[2],
                "uri": dataset,
                **_storage_of(dataset, storage),
                **({"digest": digest} if digest else {}),
            }
        ],
        "model": {"architecture": architecture},
        "training": {"epochs": epochs},
        "certification": {"gates": [gate.to_wire() for gate in gates]},
        "output": {"uri": output, **_storage_of(output, storage), "kek": kek},
    }
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    return check_job(manifest)


def _storage_of(uri: str, storage: str | None) -> dict[str, Any]:
    return {"storageRef": {"name": storage}} if storage and uri.startswith("s3://") else {}


def dump(manifest: Mapping[str, Any]) -> str:
    """A manifest as YAML."""
    return yaml.safe_dump(dict(manifest), sort_keys=False)
