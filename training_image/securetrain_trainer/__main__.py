"""Entrypoint of the training and certify pods: harden, run one phase, say how it ended.

Whatever happens, only three things leave the process: allow-listed log lines, a termination
message of reason and message, and an exit code from the one table.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

from pydantic import ValidationError

from securetrain.api.gateway import RunSpec
from securetrain.api.names import RUN_SPEC_ENV, Purpose
from securetrain.errors import BadConfiguration, ExitCode, SecuretrainError
from securetrain_trainer.gateway import Gateway
from securetrain_trainer.harden import harden
from securetrain_trainer.keys import GrantedKeys
from securetrain_trainer.log import log

TERMINATION_LOG: Final = Path("/dev/termination-log")
MAX_MESSAGE: Final = 700


def main(termination_log: Path = TERMINATION_LOG) -> int:
    """Run the phase that the environment describes; returns the exit code."""
    try:
        facts = harden()
        run = take_run_spec()
        _on_sigterm(termination_log)
        log(
            "start",
            purpose=run.purpose,
            namespace=run.job.namespace,
            job=run.job.name,
            coreLimit=facts.core_limit,
            dumpable=facts.dumpable,
            tmpInMemory=facts.tmp_in_memory,
            rootReadOnly=facts.root_read_only,
        )
        _run(run)
    except SecuretrainError as error:
        return _ended(termination_log, error.reason, str(error), error.exit_code)
    except Exception as error:  # its text may quote plaintext: only its type is told
        kind = type(error).__name__
        message = f"the trainer failed with {kind}; this is a bug"
        return _ended(termination_log, "InternalError", message, ExitCode.BUG)
    log("done", purpose=run.purpose)
    return ExitCode.OK


def take_run_spec() -> RunSpec:
    """The run, taken out of the environment so that no child or library sees it.

    Raises:
        BadConfiguration: absent or malformed.
    """
    text = os.environ.pop(RUN_SPEC_ENV, "")
    try:
        return RunSpec.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadConfiguration(
            f"{RUN_SPEC_ENV}: {field or 'the whole'} is not what a run needs ({first['type']}).",
            fix="pods of this image are made by the operator only",
        ) from None


def _run(run: RunSpec) -> None:
    gateway = Gateway(run.gateway)
    keys = GrantedKeys(gateway)
    if run.purpose is Purpose.TRAIN:
        from securetrain_trainer.training import run_training

        run_training(run, keys, gateway)
    else:
        from securetrain_trainer.certify import run_certification

        run_certification(run, keys, gateway)


def _ended(termination_log: Path, reason: str, message: str, code: int) -> int:
    """Leave the termination message for the operator and return the exit code."""
    log("failed", reason=reason, message=message, status=int(code))
    try:
        _leave_message(termination_log, reason, message)
    except OSError as error:  # outside a pod there is none; the exit code still tells
        log("termination.lost", type=type(error).__name__)
    return int(code)


def _leave_message(termination_log: Path, reason: str, message: str) -> None:
    text = json.dumps({"reason": reason, "message": message[:MAX_MESSAGE]}, ensure_ascii=True)
    termination_log.write_text(text)


def _on_sigterm(termination_log: Path) -> None:
    """End at once when the pod is evicted, preempted or suspended: a new pod starts afresh.

    As process 1 of its container the trainer would otherwise ignore the signal until it is killed.
    """

    def leave(_signal: int, _frame: FrameType | None) -> None:
        # No log line: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):
            _leave_message(termination_log, "Terminated", "the pod was told to end")
        os._exit(ExitCode.TRY_AGAIN)

    signal.signal(signal.SIGTERM, leave)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    os._exit(exit_code)  # past TensorFlow's teardown, which may change the exit code
