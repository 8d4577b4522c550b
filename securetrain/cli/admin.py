"""Commands of the platform admin: make Vault ready, and say what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from securetrain.cli import doctor_cluster, doctor_storage, doctor_vault, findings, kube, render
from securetrain.cli.findings import Finding, Level
from securetrain.cli.jobs import ContextOption
from securetrain.cli.render import Output, OutputOption
from securetrain.cli.user_files import read_text
from securetrain.cli.vault_env import client_from_env
from securetrain.errors import ExitCode, SecuretrainError, UsageError
from securetrain.vault import jwks, setup, setup_request, signing
from securetrain.vault.setup_request import SetupRequest

MARKS = {"ok": "✓", "create": "+", "update": "~"}

AuthMountOption = Annotated[str, typer.Option(help="JWT auth mount of the operator's logins.")]
TransitOption = Annotated[str, typer.Option(help="Transit mount.")]
SigningKeyOption = Annotated[str, typer.Option(help="Transit key that signs models.")]

vault_app = typer.Typer(help="Vault for securetrain.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add `vault setup`, `vault public-key` and `doctor`."""
    vault_app.command("setup")(vault_setup)
    vault_app.command("public-key")(vault_public_key)
    app.add_typer(vault_app, name="vault")
    app.command()(doctor)


def vault_setup(
    namespace: Annotated[
        list[str], typer.Option("--namespace", "-n", help="Of jobs; exactly one a run.")
    ],
    dataset_kek: Annotated[list[str], typer.Option(help="Transit key of datasets; repeat.")],
    model_kek: Annotated[list[str], typer.Option(help="Transit key of models; repeat.")],
    apply: Annotated[bool, typer.Option("--apply", help="Do it; else only show the plan.")] = False,
    context: ContextOption = None,
    auth_mount: AuthMountOption = "kubernetes-securetrain",
    transit_mount: TransitOption = "transit",
    pki_mount: Annotated[str, typer.Option(help="PKI mount of the gateway.")] = "securetrain-pki",
    pki_role: Annotated[str, typer.Option(help="Role at the PKI mount.")] = "gateway",
    signing_key: SigningKeyOption = "securetrain-models",
    audience: Annotated[str, typer.Option(help="Of the operator's token for Vault.")] = "vault",
    operator_subject: Annotated[
        str, typer.Option(help="Service account of the operator.")
    ] = setup_request.OPERATOR_SUBJECT,
    gateway_name: Annotated[
        list[str] | None, typer.Option(help="DNS name of the gateway; repeat.")
    ] = None,
    jwt_public_key: Annotated[
        list[Path] | None,
        typer.Option(help="PEM of the cluster's service account key; repeat. Default: asks it."),
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="iss of its tokens. Default: asks it.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make Vault ready, or say what differs. By VAULT_ADDR, VAULT_CACERT and an admin's login."""
    wanted = SetupRequest(
        namespace=_only(namespace),
        dataset_keks=tuple(dataset_kek),
        model_keks=tuple(model_kek),
        jwt_public_keys=_public_keys(jwt_public_key, context),
        issuer=issuer or _issuer(context),
        audience=audience,
        operator_subject=operator_subject,
        gateway_names=tuple(gateway_name or setup_request.GATEWAY_NAMES),
        auth_mount=auth_mount,
        transit_mount=transit_mount,
        pki_mount=pki_mount,
        pki_role=pki_role,
        signing_key=signing_key,
    )
    with client_from_env() as vault:
        steps = setup.plan(vault, wanted)
        changed = setup.apply(steps) if apply else 0
    _show(steps, changed, apply, output)


def vault_public_key(
    transit_mount: TransitOption = "transit",
    signing_key: SigningKeyOption = "securetrain-models",
    output: OutputOption = Output.TEXT,
) -> None:
    """Print the public key that models are verified with, PEM."""
    with client_from_env() as vault:
        key = signing.public_key(vault, transit_mount, signing_key)
    pem = key.pem.decode()
    if output is Output.JSON:
        render.emit(output, {"key": signing_key, "version": key.version, "pem": pem})
    else:
        typer.echo(pem, nl=False)


def doctor(
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Of jobs.")] = None,
    context: ContextOption = None,
    auth_mount: AuthMountOption = "kubernetes-securetrain",
    output: OutputOption = Output.TEXT,
) -> int:
    """Say what is missing for jobs to run, and the fix. Exit code 13 if anything is."""
    namespace = kube.namespace_or_default(namespace, context)
    found: list[Finding] = []
    with kube.api(context) as api:
        cluster = doctor_cluster.checks(api, namespace)
        found += findings.run_checks([*cluster, *doctor_storage.checks(api, namespace)])
    found += _vault_findings(namespace, auth_mount)
    faults = sum(item.level is Level.FAULT for item in found)
    listed = [{"level": i.level.name, "text": i.text, "fix": i.fix} for i in found]
    render.emit(
        output, {"faults": faults, "findings": listed}, *(render.printable(str(i)) for i in found)
    )
    return ExitCode.CONFIGURATION if faults else ExitCode.OK


def _vault_findings(namespace: str, auth_mount: str) -> list[Finding]:
    try:
        vault = client_from_env()
    except SecuretrainError as error:
        return [findings.warning(f"Vault was not looked at: {error.message}", error.fix)]
    with vault:
        return list(findings.run_checks(doctor_vault.checks(vault, namespace, auth_mount)))


def _show(steps: tuple[setup.Step, ...], changed: int, applied: bool, output: Output) -> None:
    rows = [(MARKS[step.state], step.state, step.what, step.detail) for step in steps]
    differing = sum(step.state != "ok" for step in steps)
    if applied:
        end = f"{changed} changed" if changed else "nothing to change"
    else:
        end = f"{differing} to change: add --apply" if differing else "nothing to change"
    listed = [{"what": s.what, "state": s.state, "detail": s.detail} for s in steps]
    value = {"applied": applied, "changed": changed, "steps": listed}
    render.emit(output, value, render.table(("", "state", "what", "changes"), rows), end)


def _only(namespaces: list[str]) -> str:
    """The namespace; a second one would get the same KEKs, and so each other's keys."""
    if len(namespaces) != 1:
        raise UsageError(
            f"--namespace is given {len(namespaces)} times: {', '.join(namespaces)}.",
            fix="run it once for each namespace, with KEKs of its own",
        )
    return namespaces[0]


def _public_keys(files: list[Path] | None, context: str | None) -> tuple[str, ...]:
    if files:
        return tuple(jwks.normal_pem(read_text("--jwt-public-key", file)) for file in files)
    with kube.api(context) as api:
        return jwks.pems_of_jwks(json.dumps(kube.require(api, "/openid/v1/jwks")).encode())


def _issuer(context: str | None) -> str:
    with kube.api(context) as api:
        return str(kube.require(api, "/.well-known/openid-configuration").get("issuer", ""))
