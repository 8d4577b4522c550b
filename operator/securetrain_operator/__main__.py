"""Entry point of the operator's process: `python -m securetrain_operator`.

Settings come from the file that SECURETRAIN_SETTINGS names. Exit codes: 0 after SIGTERM or SIGINT,
else those of `securetrain.errors`; Kubernetes starts the process again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

from securetrain.errors import ExitCode, SecuretrainError
from securetrain_operator import logs, settings
from securetrain_operator.adapters.kube import KubeCluster, kubeconfig
from securetrain_operator.adapters.vault import VaultBroker
from securetrain_operator.app import App

SETTINGS_ENV: Final = "SECURETRAIN_SETTINGS"
SETTINGS_FILE: Final = "/etc/securetrain/settings.yaml"

log = logging.getLogger("securetrain_operator")


def main() -> int:
    """Run the operator; returns the exit code."""
    logs.configure()
    try:
        asyncio.run(_run())
    except SecuretrainError as error:
        log.error("%s", error, extra={"reason": error.reason})
        return int(error.exit_code)
    except Exception as error:
        log.error("the operator ended: %s", logs.describe(error))
        return int(ExitCode.BUG)
    return int(ExitCode.OK)


async def _run() -> None:
    loaded = settings.load(Path(os.environ.get(SETTINGS_ENV, SETTINGS_FILE)))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

    take_signals()
    cluster = await KubeCluster.connect(kubeconfig())
    try:
        vault = VaultBroker(Path(loaded.vault_token_file))
        await App.wire(loaded, cluster, vault).run(stop, take_signals)
    finally:
        await cluster.close()


if __name__ == "__main__":
    sys.exit(main())
