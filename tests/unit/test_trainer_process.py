"""What the trainer's process shows of itself: its memory's protection, its exits and its lines."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from securetrain.api.gateway import ObjectStorage, ProgressReport
from securetrain.api.names import RUN_SPEC_ENV
from securetrain.errors import GatewayUnavailable
from securetrain_trainer.harden import filesystem_of
from securetrain_trainer.log import log
from securetrain_trainer.progress import ProgressPoster
from support.trainer_kit import run_spec, seal_dataset

ROOT = Path(__file__).parents[2]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/training_image", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_memory_can_neither_be_dumped_nor_attached_to() -> None:
    done = python(
        """
        import json, os, resource
        from securetrain_trainer.harden import harden
        facts = harden()
        status = open("/proc/self/status").read()
        print(json.dumps({
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "dumpable": facts.dumpable,
            "dumping": [n for n in os.environ if n.startswith(("XLA", "TF_DUMP"))],
        }))
        """,
        XLA_FLAGS="--xla_dump_to=/output",
        TF_DUMP_GRAPH_PREFIX="/output",
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown == {"core": [0, 0], "dumpable": 0, "dumping": []}


def test_an_uncaught_error_shows_its_type_only() -> None:
    done = python(
        """
        import threading
        from securetrain_trainer.harden import harden
        harden()
        def fail(): raise ValueError("plaintext-4711")
        thread = threading.Thread(target=fail); thread.start(); thread.join()
        fail()
        """
    )
    assert done.returncode == 1
    assert "plaintext-4711" not in done.stdout + done.stderr
    assert done.stderr.count('"type":"ValueError"') == 2


def test_libraries_log_nothing() -> None:
    """The S3 client can be told by its environment to log every request."""
    done = python(
        """
        import logging
        from securetrain_trainer.harden import harden
        harden()
        import s3fs
        for name in ("s3fs", "botocore", "asyncio"):
            logging.getLogger(name).setLevel(logging.DEBUG)
            logging.getLogger(name).critical("secret-4711")
        print(logging.getLogger("s3fs").handlers)
        """,
        S3FS_LOGGING_LEVEL="DEBUG",
    )
    assert done.returncode == 0, done.stderr
    assert "StreamHandler" in done.stdout
    assert "secret-4711" not in done.stdout + done.stderr


def run_main(tmp_path: Path, spec: str | None, extra: str = "") -> tuple[int, dict[str, str], str]:
    """The entrypoint's exit code, termination message and output."""
    message = tmp_path / "termination-log"
    done = python(
        f"""
        import os, sys
        from pathlib import Path
        from securetrain_trainer import __main__ as entry
        {extra}
        code = entry.main(Path({str(message)!r}))
        assert {RUN_SPEC_ENV!r} not in os.environ
        sys.exit(code)
        """,
        **({} if spec is None else {RUN_SPEC_ENV: spec}),
    )
    told = json.loads(message.read_text()) if message.exists() else {}
    return done.returncode, told, done.stdout + done.stderr


def test_a_pod_without_a_run_is_misconfigured(tmp_path: Path) -> None:
    code, told, _ = run_main(tmp_path, None)
    assert code == 13
    assert told["reason"] == "BadConfiguration"
    code, told, _ = run_main(tmp_path, '{"purpose":"secret-word"}')
    assert code == 13
    assert "secret-word" not in told["message"]


def test_a_login_that_is_not_mounted_ends_with_13(tmp_path: Path) -> None:
    storage = ObjectStorage(
        name="minio",
        endpoint="https://127.0.0.1:9",
        region="us-east-1",
        credentials=str(tmp_path / "none"),
    )
    run = run_spec(tmp_path, dataset_path="s3://data/digits", dataset_storage=storage)
    spec = run.model_dump_json(by_alias=True)
    spec = spec.replace('"ca":"none"', f'"ca":{json.dumps(certificate())}')
    code, told, output = run_main(tmp_path, spec)
    assert code == 13, output
    assert told["reason"] == "StorageMisconfigured"
    assert "AWS_ACCESS_KEY_ID" in told["message"]


def test_a_bad_dataset_ends_with_12_before_anything_else(tmp_path: Path) -> None:
    spec = run_spec(tmp_path).model_dump_json(by_alias=True)
    spec = spec.replace('"ca":"none"', f'"ca":{json.dumps(certificate())}')
    code, told, output = run_main(tmp_path, spec)
    assert code == 12, output
    assert told["reason"] == "ManifestInvalid"
    assert "dataset.json" in told["message"]
    for line in output.splitlines():
        json.loads(line)


def test_a_bug_tells_its_type_only(tmp_path: Path) -> None:
    spec = run_spec(tmp_path).model_dump_json(by_alias=True)
    extra = "entry._run = lambda run: {}['plaintext-4711']"
    code, told, output = run_main(tmp_path, spec, extra)
    assert code == 1
    assert told["reason"] == "InternalError"
    assert "KeyError" in told["message"]
    assert "plaintext-4711" not in output + json.dumps(told)


def test_a_pod_that_is_told_to_end_asks_for_a_new_one(tmp_path: Path) -> None:
    spec = run_spec(tmp_path).model_dump_json(by_alias=True)
    extra = f"entry._run = lambda run: os.kill(os.getpid(), {int(signal.SIGTERM)})"
    code, told, _ = run_main(tmp_path, spec, extra)
    assert code == 11
    assert told["reason"] == "Terminated"


def test_a_pin_is_compared_before_keys(tmp_path: Path) -> None:
    seal_dataset(tmp_path / "data")
    spec = run_spec(tmp_path, dataset_digest="sha256:" + "0" * 64).model_dump_json(by_alias=True)
    spec = spec.replace('"ca":"none"', f'"ca":{json.dumps(certificate())}')
    code, told, output = run_main(tmp_path, spec)
    assert code == 12, output
    assert "pins" in told["message"]


def certificate() -> str:
    """Any certificate: the gateway is never reached."""
    import tempfile

    from localcluster.pki import Authority

    with tempfile.TemporaryDirectory() as folder:
        return Authority(Path(folder), "ca").certificate.read_text()


def test_log_lines_hold_allowed_fields_only() -> None:
    stream = io.StringIO()
    log("epoch.done", stream=stream, epoch=1, loss=0.5, message="x" * 5000)
    line = json.loads(stream.getvalue())
    assert line["epoch"] == 1
    assert len(line["message"]) == 1024
    with pytest.raises(ValueError, match="allow-list"):
        log("epoch.done", stream=stream, weights="…")


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/tmp", "tmpfs"), ("/tmp/a", "tmpfs"), ("/tmpfoo", "overlay"), ("/", "overlay")],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    mounts = "overlay / overlay ro 0 0\ntmpfs /tmp tmpfs rw 0 0\nproc /proc proc rw 0 0\n"
    assert filesystem_of(path, mounts) == kind


def test_progress_is_newest_wins_and_survives_a_gateway_that_is_away() -> None:
    sent: list[ProgressReport] = []
    gate = threading.Event()

    def post(report: ProgressReport) -> None:
        gate.wait(10)
        sent.append(report)
        if len(sent) == 1:
            raise GatewayUnavailable("away")

    with ProgressPoster(post) as poster:
        poster.report("first")
        while poster_waits(poster):
            threading.Event().wait(0.01)
        for number in range(5):
            poster.report("next", percentage=number)
        gate.set()
    assert [report.summary for report in sent] == ["first", "next"]
    assert sent[1].percentage == 4
    assert sent[1].sequence == 5


def poster_waits(poster: Any) -> bool:
    """True while a report has not been taken by the thread."""
    return poster._waiting is not None
