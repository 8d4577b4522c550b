"""Commands of the auditor: read a job's trail, check it, match it with Vault's own log."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic.alias_generators import to_camel
from rich.text import Text

from securetrain import jobs
from securetrain.api.digest import canonical_sha256
from securetrain.api.names import HEAD_KEY
from securetrain.api.types import TERMINAL_PHASES, JobSpec
from securetrain.audit import chain, reconcile
from securetrain.cli import kube, render
from securetrain.cli.jobs import ContextOption, NamespaceOption
from securetrain.cli.render import Output, OutputOption
from securetrain.cli.user_files import read_text
from securetrain.cli.vault_env import client_from_env
from securetrain.errors import AuditBroken, InvalidInput
from securetrain.signing.head import verify_head

NameArgument = Annotated[str, typer.Argument(help="Name of the job.")]
HIDDEN: Final = frozenset({"seq", "prev"})
OWN_LOG: Final = "use the operator's own log of audit records"
GRANT_FIELDS: Final = ("podName", "podIP", "purpose", "keys")

audit_app = typer.Typer(name="audit", help="Read and check a job's audit trail.")


def register(app: typer.Typer) -> None:
    """Add `audit show`, `audit grants` and `audit verify`."""
    app.add_typer(audit_app)
    audit_app.command()(show)
    audit_app.command()(grants)
    audit_app.command()(verify)


def show(
    name: NameArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="The lines themselves, as JSONL.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show a job's trail, one record a line."""
    trail = _Trail.read(name, namespace, context)
    if raw:
        sys.stdout.write("".join(f"{line}\n" for line in trail.lines))
        return
    records = trail.verified()
    rows = [(str(r.seq), r.time, _kind(r), _words(r.data)) for r in records]
    value = {"records": [json.loads(record.line) for record in records]}
    render.emit(output, value, render.table(("seq", "time", "what", "details"), rows))


def grants(
    name: NameArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show which pods were given which keys."""
    records = _Trail.read(name, namespace, context).verified()
    found = [record for record in records if _kind(record) == "grant.recorded"]
    rows = [(r.time, *(_text(r.data.get(field, "")) for field in GRANT_FIELDS)) for r in found]
    value = {"grants": [dict(record.data) for record in found]}
    columns = ("time", "pod", "address", "purpose", "keys")
    render.emit(output, value, render.table(columns, rows))


def verify(
    name: NameArgument,
    key: Annotated[Path, typer.Option(help="Public signing key, PEM.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    vault_log: Annotated[Path | None, typer.Option(help="Vault's audit log (file device).")] = None,
    vault_device: Annotated[
        str | None, typer.Option(help="Path of that audit device: compare accessors too.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check the chain, its signed head, and that Vault's own log agrees both ways.

    Lists all that disagrees, and then exits with 12.
    """
    trail = _Trail.read(name, namespace, context)
    records = trail.verified()
    trail.check_status(records)
    head = trail.check_head(read_text("--key", key).encode(), records)
    lines = [f"✓ chain      {len(records)} records", f"✓ head       {head}"]
    value: dict[str, Any] = {"records": len(records), "head": records[-1].sha256}
    found: tuple[reconcile.Finding, ...] = ()
    if vault_log is not None:
        agreement = _compare(trail.uid, records, vault_log, vault_device)
        found = agreement.findings
        lines += _agreement_lines(agreement)
        value["vault"] = asdict(agreement, dict_factory=_wire)
    render.emit(output, value, *(Text(render.printable(line)) for line in lines))
    if found:
        raise AuditBroken(
            f"Vault's log and the trail disagree in {len(found)} ways: {found[0].what}",
            fix=found[0].fix,
        )


class _Trail:
    """The mirrored trail of a job, with what is needed to check it."""

    def __init__(self, job: Mapping[str, Any], lines: Sequence[str], head: str | None) -> None:
        self.uid = str(job["metadata"]["uid"])
        self.lines = tuple(lines)
        self._head = head
        self._status = job.get("status") or {}
        metadata = job["metadata"]
        self._genesis = chain.genesis(
            metadata["namespace"],
            metadata["name"],
            self.uid,
            canonical_sha256(JobSpec.model_validate(job["spec"]).run_content()),
        )

    @classmethod
    def read(cls, name: str, namespace: str | None, context: str | None) -> _Trail:
        """The trail as the cluster shows it; raises JobNotFound."""
        api = kube.api(context)
        namespace = kube.namespace_or_default(namespace, context)
        job = jobs.read(api, namespace, name)  # first: the mirror only grows after its status
        data = jobs.audit_data(api, namespace, name)
        return cls(job, jobs.audit_lines(data), data.get(HEAD_KEY))

    def verified(self) -> tuple[chain.Record, ...]:
        """The records of the chain; raises AuditBroken."""
        records = chain.verify_chain(self.lines, self._genesis)
        if not records:
            raise AuditBroken("the audit trail is empty", fix="wait until the job has begun")
        return records

    def check_status(self, records: Sequence[chain.Record]) -> None:
        """Raise AuditBroken unless the trail goes on from where the job's status saw it.

        Users of the namespace can edit the mirror, but only the operator writes the status.
        """
        told = self._status.get("audit")
        if told is None:
            return
        length = int(told["records"])
        if len(records) < length:
            raise AuditBroken(
                f"the trail has {len(records)} records, the job's status tells of {length}:"
                " records were cut off",
                fix="if it just moved on, try again; else use the operator's own log of records",
            )
        if length and records[length - 1].sha256 != told["head"]:
            raise AuditBroken(
                f"record {length} of the trail is not the one that the job's status names",
                fix=OWN_LOG,
            )

    def check_head(self, public_key_pem: bytes, records: Sequence[chain.Record]) -> str:
        """Words on the signed head; raises AuditBroken if it is of another chain."""
        if self._head is None and self._status.get("phase") in TERMINAL_PHASES:
            raise AuditBroken(
                "the job has ended, and no signed head proves that its trail is whole",
                fix=f"if Vault is away, wait until the operator has signed it; else {OWN_LOG}",
            )
        if self._head is None:
            return f"{records[-1].sha256[:16]}…, not signed yet: the job goes on"
        signed = verify_head(self._head, public_key_pem)
        expected = (self._genesis, records[-1].sha256, len(records))
        if (signed.genesis, signed.head, signed.records) != expected:
            raise AuditBroken(
                f"the trail has {len(records)} records, the signed head is of {signed.records}:"
                " records were cut off, or added",
                fix=OWN_LOG,
            )
        return f"{signed.head[:16]}…, signed"


def _compare(
    uid: str, records: Sequence[chain.Record], log: Path, device: str | None
) -> reconcile.Agreement:
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            calls = list(reconcile.parse_vault_log(file))
    except OSError:
        raise InvalidInput("--vault-log", str(log), "cannot be read", fix="name a file") from None
    if device is None:
        return reconcile.compare(uid, records, calls)
    with client_from_env() as client:

        def hashed(accessor: str) -> str:
            return client.write(f"sys/audit-hash/{device}", {"input": accessor}).text("hash")

        return reconcile.compare(uid, records, calls, hashed)


def _agreement_lines(found: reconcile.Agreement) -> list[str]:
    counts = f"{found.decrypts} decrypts, {found.signs} signatures, {found.unwraps} unwraps"
    mark, end = ("✗", "not all agree") if found.findings else ("✓", "each has its record")
    owners = f"owner decrypts {found.owner_decrypts}"
    listed = [f"✗ {finding.what}. Fix: {finding.fix}" for finding in found.findings]
    return [f"{mark} Vault log  {counts}: {end}; {owners}", *listed]


def _wire(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {to_camel(name): value for name, value in fields}


def _kind(record: chain.Record) -> str:
    return record.type.removeprefix(chain.TYPE_PREFIX)


def _words(data: Mapping[str, Any]) -> str:
    shown = ((key, value) for key, value in data.items() if key not in HIDDEN)
    return " ".join(f"{key}={_text(value)}"[:80] for key, value in shown)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
