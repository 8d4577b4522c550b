"""Commands around a finished model: verify it, read its report, open it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from securetrain.cli import render
from securetrain.cli.owner_keys import model_key
from securetrain.cli.render import Output, OutputOption
from securetrain.cli.user_files import read_text
from securetrain.errors import ExitCode, InvalidInput, ModelCorrupt, OutputExists
from securetrain.sealed.files import private_folder, publish_private, read, write_private
from securetrain.sealed.model import (
    KEY_FILE,
    MAX_KEY_BYTES,
    MAX_MODEL_BYTES,
    MAX_REPORT_BYTES,
    MAX_WEIGHTS_BYTES,
    MODEL_FILE,
    REPORT_FILE,
    ModelManifest,
    parse_key,
    parse_model,
)
from securetrain.sealed.strict_json import load
from securetrain.sealed.weights import open_weights
from securetrain.signing.verify import VerifiedModel, verify_model

FolderArgument = Annotated[Path, typer.Argument(help="The model's folder.")]


def register(app: typer.Typer) -> None:
    """Add `verify`, `report` and `open`."""
    app.command()(verify)
    app.command()(report)
    app.command("open")(open_model)


def verify(
    folder: FolderArgument,
    key: Annotated[Path, typer.Option(help="Public signing key, PEM, from a source you trust.")],
    output: OutputOption = Output.TEXT,
) -> None:
    """Check signature, files and audit trail of a model; exit code 12 if anything differs."""
    verified = verify_model(_folder(folder), read_text("--key", key).encode())
    claim = verified.claim
    value = {"valid": True, "digest": verified.signed.digest, "certification": dict(claim)}
    render.emit(output, value, *(Text(line) for line in _verified_lines(verified)))


def _verified_lines(verified: VerifiedModel) -> list[str]:
    claim = verified.claim
    gates = claim.get("gates") or []
    passed = sum(bool(gate["passed"]) for gate in gates)
    job = claim["job"]
    lines = [
        f"signature  {len(verified.signed.files)} files, sha256:{verified.signed.digest[:16]}…",
        f"verdict    {claim['verdict']}, gates {passed}/{len(gates)}",
        f"job        {job['namespace']}/{job['name']}",
        f"dataset    sha256:{claim['datasetSha256'][:16]}…",
        f"image      {claim['trainImage']}",
        f"audit      {len(verified.records)} records, head {claim['audit']['head'][:16]}…",
    ]
    return [f"✓ {render.printable(line)}" for line in lines]


def report(folder: FolderArgument, output: OutputOption = Output.TEXT) -> None:
    """Show a model's evaluation report; `report.html` beside it is for a browser."""
    data = read(_folder(folder), REPORT_FILE, MAX_REPORT_BYTES, ModelCorrupt)
    content = load(data, name=REPORT_FILE, limit=MAX_REPORT_BYTES)
    try:
        metrics = [
            (str(entry["name"]), str(entry["value"])) for entry in content["evaluation"]["metrics"]
        ]
        gates = [
            (*(str(gate[key]) for key in ("metric", "rule", "value")), "✓✗"[not gate["passed"]])
            for gate in content["gates"]
        ]
        json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate cannot be printed
    except (ValueError, KeyError, TypeError):
        raise ModelCorrupt(f"{REPORT_FILE} is not a report") from None
    shown = [render.fields(metrics)]
    if gates:
        shown.append(render.table(("gate", "rule", "value", ""), gates))
    note = Text(f"verify it: securetrain verify {folder} --key KEY · page: {folder}/report.html")
    render.emit(output, content, *shown, note)


def open_model(
    folder: FolderArgument,
    dest: Annotated[Path, typer.Argument(help="A new .safetensors or .keras file.")],
    output: OutputOption = Output.TEXT,
) -> None:
    """Decrypt a model's weights with your own Vault login; what comes out is plaintext."""
    if dest.suffix not in (".safetensors", ".keras"):
        raise InvalidInput(
            "DEST", str(dest), "ends in neither", fix="name a .safetensors or a .keras file"
        )
    if dest.exists():
        raise OutputExists(f"{dest} exists already", fix="choose another name")
    folder = _folder(folder)
    manifest = parse_model(read(folder, MODEL_FILE, MAX_MODEL_BYTES))
    sealed = read(folder, manifest.weights.path, MAX_WEIGHTS_BYTES, ModelCorrupt)
    key = parse_key(read(folder, KEY_FILE, MAX_KEY_BYTES))
    weights = open_weights(manifest, sealed, model_key(manifest, key))
    if dest.suffix == ".keras":
        with private_folder(dest) as private:
            made = private / dest.name
            _export(folder, manifest, weights, made)
            publish_private(made, dest)
    else:
        write_private(dest, weights)
    size = dest.stat().st_size
    render.emit(output, {"path": str(dest), "bytes": size}, Text(f"{dest} {size} bytes, plaintext"))


def _export(folder: Path, manifest: ModelManifest, weights: bytes, dest: Path) -> None:
    """Have the trainer's own code build the Keras file; the weights go through a pipe."""
    command = [
        sys.executable,
        "-m",
        "securetrain_trainer.export",
        str(folder / MODEL_FILE),
        str(dest),
    ]
    result = subprocess.run(  # noqa: S603
        command, input=weights, capture_output=True, check=False, umask=0o077
    )
    if result.returncode == ExitCode.INTEGRITY:
        raise ModelCorrupt(
            f"{manifest.weights.path} does not hold the weights of {MODEL_FILE}'s architecture",
            fix="check the folder: securetrain verify",
        )
    if result.returncode:
        raise InvalidInput(
            "DEST",
            dest.name,
            "cannot be written as a Keras file here",
            fix="install securetrain[trainer] and make room, or open the model as .safetensors",
        )


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise InvalidInput("FOLDER", str(folder), "is not a folder", fix="name a model's folder")
    return folder
