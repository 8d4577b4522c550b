"""Commands about usage policies: who may train what with a dataset, until when."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from securetrain.api.gateway import MAX_POLICY_BYTES
from securetrain.api.rules import METRICS
from securetrain.cli import policy_text, render
from securetrain.cli.groups import new_app
from securetrain.cli.manifests import namespace_of, parse_gate, parse_spec, read_job
from securetrain.cli.render import Output, OutputOption
from securetrain.errors import InvalidInput, ManifestInvalid, PolicyDenied
from securetrain.sealed import strict_json
from securetrain.sealed.policy import (
    BUILTIN,
    Denial,
    PolicyRequest,
    RequiredGate,
    UsagePolicy,
    check,
    fix_of,
    parse_policy,
)

DEFAULT_VALID_DAYS: Final = 365
SOON_SECONDS: Final = 7 * 24 * 3600
_OPTION_OF: Final = {
    "namespaces": "--namespace",
    "images": "--image",
    "output_keks": "--output-kek",
}

policy_app = typer.Typer(name="policy", help="Check a usage policy.")


def register(app: typer.Typer) -> None:
    """Add `policy check`, `policy schema` and `new policy`."""
    policy_app.callback()(_policy_group)
    policy_app.command("check")(policy_check)
    policy_app.command("schema")(policy_schema)
    app.add_typer(policy_app)
    new_app.command("policy")(new_policy)


def read_policy(path: Path) -> tuple[bytes, UsagePolicy]:
    """A policy file that the user names, JSON or YAML.

    Returns:
        The bytes to seal, which for JSON are the file's own, and what they say.

    Raises:
        InvalidInput: it cannot be read, or is not a policy; the field is named.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_POLICY_BYTES + 1)
        if path.suffix in policy_text.SUFFIXES:
            data = policy_text.from_yaml(data)
        return data, parse_policy(data)
    except OSError:
        raise InvalidInput(
            "policy", str(path), "cannot be read", fix="write one with `securetrain new policy`"
        ) from None
    except ManifestInvalid as problem:
        raise InvalidInput(
            "policy",
            str(path),
            f"is not a usage policy: {problem.message.rstrip('.')}",
            fix="see `securetrain new policy` for one that is, or `securetrain policy schema`",
        ) from None


def describe_policy(policy: UsagePolicy) -> list[tuple[str, str]]:
    """A policy in words, as rows of a name and a value."""
    return [
        ("namespaces", ", ".join(policy.namespaces)),
        ("images", ", ".join(policy.images)),
        ("output KEKs", ", ".join(policy.output_keks)),
        ("gates", ", ".join(gate.rule for gate in policy.gates) or "none required"),
        ("until", policy.not_after),
        ("network", "isolated pods only" if policy.network_isolation else "any"),
    ]


def _policy_group() -> None:
    """Check a usage policy."""


def policy_check(
    file: Annotated[Path, typer.Argument(metavar="POLICY", help="The usage policy, JSON or YAML.")],
    job: Annotated[
        Path | None, typer.Option("--job", help="A job that would use the data, YAML or JSON.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="The job's namespace, if it names none.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check a policy, and whether it would let a job use the data (exit 10 if not).

    Every rule that says no is named, with what the job says and what would pass. Network isolation
    is the operator's to prove, when keys are asked for.
    """
    policy = read_policy(file)[1]
    denials = check(policy, _request(job, namespace)) if job else ()
    notes = _notes(policy)
    value = {
        "valid": True,
        "allowed": not denials if job else None,
        "denials": [_wire(denial) for denial in denials],
        "notes": notes,
        "policy": policy.to_wire(),
    }
    verdict = "allows the job" if job else "is valid"
    rows = [("✓", f"{file} {verdict}"), *describe_policy(policy)]
    if not denials or output is Output.JSON:
        render.emit(output, value, render.fields(rows))
    render.lines(*(f"warning: {note}" for note in notes))
    if denials:
        render.lines(*(f"✗ {denial}" for denial in denials))
        rules = ", ".join(dict.fromkeys(denial.rule for denial in denials))
        raise PolicyDenied(
            f"the policy does not allow the job, by {rules}.",
            fix=fix_of(denials),
        )


def policy_schema(output: OutputOption = Output.JSON) -> None:
    """Print the JSON Schema of usage policies, for editors; it is JSON whatever --output says."""
    typer.echo(policy_text.schema_text(), nl=False)


def _wire(denial: Denial) -> dict[str, str]:
    return {
        "rule": denial.rule,
        "field": denial.field,
        "said": denial.said,
        "allowed": denial.allowed,
    }


def _notes(policy: UsagePolicy) -> list[str]:
    """What is valid, but hardly meant."""
    left = policy.expires - time.time()
    notes = []
    if left <= 0:
        notes.append(f"notAfter: it ended on {policy.not_after}, so no job gets keys")
    elif left < SOON_SECONDS:
        notes.append(f"notAfter: it ends on {policy.not_after}, in less than a week")
    notes += [
        f"gates: nothing measures {gate.metric}, so no job can have that gate"
        for gate in policy.gates
        if gate.metric not in METRICS
    ]
    if not policy.network_isolation:
        notes.append("networkIsolation: false lets a pod send what it reads anywhere")
    return notes


def new_policy(
    namespace: Annotated[list[str], typer.Option(help="A namespace that may train; repeatable.")],
    output_kek: Annotated[
        list[str], typer.Option(help="A KEK that may protect models; repeatable.")
    ],
    image: Annotated[
        list[str] | None,
        typer.Option(help="sha256:… of a train image, or builtin; repeatable. [default: builtin]"),
    ] = None,
    gate: Annotated[
        list[str] | None, typer.Option(help="A gate that jobs must have: METRIC>=NUMBER.")
    ] = None,
    valid_days: Annotated[
        int, typer.Option(min=1, max=3650, help="Days until the policy ends.")
    ] = DEFAULT_VALID_DAYS,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="YAML, with a comment for each field.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print a usage policy to start from; JSON unless --yaml is given."""
    gates = tuple(parse_gate(RequiredGate, text) for text in gate or ())
    ends = datetime.now(UTC) + timedelta(days=valid_days)
    try:
        policy = UsagePolicy(
            format="securetrain/policy/v1",
            namespaces=tuple(namespace),
            images=tuple(image or [BUILTIN]),
            output_keks=tuple(output_kek),
            gates=gates,
            not_after=ends.strftime("%Y-%m-%dT00:00:00Z"),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        option = _OPTION_OF.get(str(first["loc"][0]), str(first["loc"][0]))
        raise InvalidInput(option, first["input"], "is malformed", fix=first["msg"]) from None
    yaml_wanted = as_yaml and output is Output.TEXT
    text = policy_text.to_yaml(policy) if yaml_wanted else strict_json.dump(policy).decode()
    typer.echo(text, nl=False)


def _request(job: Path, namespace: str | None) -> PolicyRequest:
    """What the job in a file would ask for."""
    manifest: dict[str, Any] = read_job(job)
    spec = parse_spec(manifest["spec"])
    place = namespace_of(manifest, namespace)
    if place is None:
        raise InvalidInput(
            "metadata.namespace", place, "is not a namespace", fix="set it there or with -n"
        )
    return PolicyRequest(
        namespace=place,
        image=spec.pod.image or BUILTIN,
        builtin=spec.pod.image is None,
        output_kek=spec.output.kek,
        isolated=True,
        gates=spec.certification.gates,
        now=time.time(),
    )
