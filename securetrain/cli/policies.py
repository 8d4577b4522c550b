"""Commands about usage policies: who may train what with a dataset, until when."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from securetrain.api.gateway import MAX_POLICY_BYTES
from securetrain.cli import render
from securetrain.cli.groups import new_app
from securetrain.cli.manifests import namespace_of, parse_gate, parse_spec, read_job
from securetrain.cli.render import Output, OutputOption
from securetrain.errors import InvalidInput, ManifestInvalid, PolicyDenied
from securetrain.sealed import strict_json
from securetrain.sealed.policy import (
    BUILTIN,
    PolicyRequest,
    RequiredGate,
    UsagePolicy,
    check,
    parse_policy,
)

DEFAULT_VALID_DAYS: Final = 365
_OPTION_OF: Final = {
    "namespaces": "--namespace",
    "images": "--image",
    "output_keks": "--output-kek",
}

policy_app = typer.Typer(name="policy", help="Check a usage policy.")


def register(app: typer.Typer) -> None:
    """Add `policy check` and `new policy`."""
    policy_app.callback()(_policy_group)
    policy_app.command("check")(policy_check)
    app.add_typer(policy_app)
    new_app.command("policy")(new_policy)


def read_policy(path: Path) -> tuple[bytes, UsagePolicy]:
    """A policy file that the user names: its bytes and what they say; raises InvalidInput."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_POLICY_BYTES + 1)
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
            fix="see `securetrain new policy` for one that is",
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
    file: Annotated[Path, typer.Argument(help="The usage policy, JSON.")],
    job: Annotated[Path | None, typer.Argument(help="A job that would use the data.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="The job's namespace, if it names none.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check a policy, and whether it would let a job use the data (exit 10 if not).

    Network isolation is the operator's to prove, when keys are asked for.
    """
    policy = read_policy(file)[1]
    denials = check(policy, _request(job, namespace)) if job else ()
    if denials:
        raise PolicyDenied(
            "; ".join(str(denial) for denial in denials),
            fix="change the job, or ask the data owner",
        )
    verdict = "allows the job" if job else "is valid"
    render.emit(
        output,
        {"valid": True, "allowed": bool(job) or None, "policy": policy.to_wire()},
        render.fields([("✓", f"{file} {verdict}"), *describe_policy(policy)]),
    )


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
    output: OutputOption = Output.TEXT,
) -> None:
    """Print a usage policy to start from; it is JSON in either form."""
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
    typer.echo(strict_json.dump(policy).decode(), nl=False)


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
