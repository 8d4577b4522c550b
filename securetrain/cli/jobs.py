"""Commands of the ML engineer: describe a run, submit it, follow it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from kubernetes import client
from rich.progress import BarColumn, Progress, TextColumn

from securetrain import jobs
from securetrain.api.types import Gate
from securetrain.cli import kube, manifests, render
from securetrain.cli.groups import new_app
from securetrain.cli.render import Output, OutputOption
from securetrain.errors import ExitCode

NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; default: the context's.")
]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
TimeoutOption = Annotated[
    float | None, typer.Option("--timeout", min=1, help="Give up watching after so many seconds.")
]
COLUMN: Final = 12


def register(app: typer.Typer) -> None:
    """Add `submit`, `watch` and `new job`."""
    app.command()(submit)
    app.command()(watch)
    new_app.command("job")(new_job)


def new_job(
    dataset: Annotated[
        str,
        typer.Option(help="Where the sealed dataset is: pvc://CLAIM/PATH or s3://BUCKET/PREFIX."),
    ],
    output_uri: Annotated[
        str, typer.Option(help="Where the model goes: pvc://CLAIM/PATH or s3://BUCKET/PREFIX.")
    ],
    kek: Annotated[str, typer.Option(help="Transit key for the model.")],
    name: Annotated[str, typer.Option(help="Name of the run.")],
    namespace: NamespaceOption = None,
    storage: Annotated[
        str | None, typer.Option(help="Storage connection of the s3:// addresses.")
    ] = None,
    digest: Annotated[str | None, typer.Option(help="Pin the dataset: sha256:…")] = None,
    architecture: Annotated[str, typer.Option(help="cnn or mlp.")] = "cnn",
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    gate: Annotated[list[str] | None, typer.Option(help="Such as accuracy>=0.97; repeat.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print a job that is ready to submit."""
    job = manifests.new_job(
        name=name,
        namespace=namespace,
        dataset=dataset,
        storage=storage,
        digest=digest,
        architecture=architecture,
        epochs=epochs,
        gates=tuple(manifests.parse_gate(Gate, text) for text in gate or ()),
        output=output_uri,
        kek=kek,
    )
    if output is Output.JSON:
        render.emit(output, job)
    else:
        sys.stdout.write(manifests.dump(job))


def submit(
    file: Annotated[Path, typer.Argument(help="YAML of one SecureTrainingJob.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    follow: Annotated[bool, typer.Option("--watch", help="Follow it until it has ended.")] = False,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Create a job; the same job again changes nothing."""
    manifest = manifests.read_job(file)
    api = kube.api(context)
    namespace = manifests.namespace_of(manifest, namespace)
    namespace = kube.namespace_or_default(namespace, context)
    job, created = jobs.submit(api, namespace, manifest)
    name = job["metadata"]["name"]
    if not follow:
        state = "created" if created else "unchanged"
        value = {
            "name": name,
            "namespace": namespace,
            "uid": job["metadata"]["uid"],
            "state": state,
        }
        render.emit(
            output, value, f"{name} {state}; follow it: securetrain watch {name} -n {namespace}"
        )
        return ExitCode.OK
    return _follow(api, namespace, name, timeout, output)


def watch(
    name: Annotated[str, typer.Argument(help="Name of the job.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Follow a job until it has ended; the exit code is its outcome."""
    api = kube.api(context)
    namespace = kube.namespace_or_default(namespace, context)
    return _follow(api, namespace, name, timeout, output)


def _follow(
    api: client.ApiClient, namespace: str, name: str, timeout: float | None, output: Output
) -> int:
    views = jobs.follow(api, namespace, name, timeout_seconds=timeout)
    if output is Output.JSON:
        *_, last = views
        render.emit(output, {"name": last.name, "namespace": last.namespace, **last.status})
        return last.exit_code
    last = _on_terminal(views) if sys.stdout.isatty() else _as_lines(views)
    render.console().print(last_line(last))
    return last.exit_code


def _as_lines(views: Iterable[jobs.JobView]) -> jobs.JobView:
    """One line per change."""
    shown = ""
    for view in views:
        line = line_of(view)
        if line != shown and not view.terminal and (view.reason or view.summary):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        shown = line
    return view


def _on_terminal(views: Iterable[jobs.JobView]) -> jobs.JobView:
    """One line per phase, and a bar that moves while training."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=render.console(), transient=True) as bar:
        task, phase = bar.add_task("Pending", total=100, note=""), ""
        for view in views:
            if view.phase != phase and phase:
                bar.console.print(phase)
            phase = f"{view.phase:<{COLUMN}}{render.printable(view.summary or view.reason)}"
            bar.update(task, description=phase, completed=view.percentage or 0, note=note_of(view))
    return view


def line_of(view: jobs.JobView) -> str:
    """A view as one line of text."""
    if view.phase == "Training" and view.summary:
        parts = [view.summary, note_of(view)]
        text = "  ".join(part for part in parts if part)
    else:
        text = ": ".join(part for part in (view.reason, view.message) if part)
    return render.printable(f"{view.phase:<{COLUMN}}{text}")


def note_of(view: jobs.JobView) -> str:
    """Percentage, metrics and time left, as far as they are known."""
    left = view.remaining_seconds
    parts = [
        f"{view.percentage} %" if view.percentage is not None else "",
        *(f"{name} {value[:6]}" for name, value in sorted(view.metrics.items())[:3]),
        f"eta {_clock(left)}" if left is not None else "",
    ]
    return "  ".join(part for part in parts if part)


def last_line(view: jobs.JobView) -> str:
    """What came out, in one line."""
    gates = view.status.get("gates") or []
    shown = "  ".join(
        f"{gate['metric']} {gate['value']} {gate['rule']} {'✓' if gate['passed'] else '✗'}"
        for gate in gates
    )
    records = (view.status.get("audit") or {}).get("records")
    conditions = {entry["type"]: entry["status"] for entry in view.status.get("conditions", [])}
    parts = [
        _duration(view),
        shown,
        "signed" if conditions.get("Signed") == "True" else "",
        f"audit {records} records" if records else "",
        "" if view.phase == "Succeeded" else f"{view.reason}: {view.message}",
    ]
    text = " · ".join(part for part in parts if part)
    return render.printable(f"{view.phase:<{COLUMN}}{text}")


def _duration(view: jobs.JobView) -> str:
    start, end = view.status.get("startTime"), view.status.get("completionTime")
    if not start or not end:
        return ""
    took = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    return _clock(int(took.total_seconds()))


def _clock(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02d}"
