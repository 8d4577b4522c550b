"""The operator's own parts in the tests' process, and the key gateway served over TLS.

They run in a thread of their own, so that tests may block as pods and thieves do.
"""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from securetrain_operator.adapters.board import MemoryBoard
from securetrain_operator.adapters.clock import SystemClock
from securetrain_operator.adapters.events import KubeEvents
from securetrain_operator.adapters.kube import KubeCluster
from securetrain_operator.adapters.progress import MemoryProgress
from securetrain_operator.adapters.records import ConfigMapRecords
from securetrain_operator.adapters.sinks import StreamSink
from securetrain_operator.adapters.vault import VaultBroker
from securetrain_operator.certificates import ServingCertificate
from securetrain_operator.gateway.server import Gateway
from securetrain_operator.reconcile import Reconciler
from securetrain_operator.resync import Resync
from securetrain_operator.settings import Settings
from securetrain_operator.store import WatchStore

T = TypeVar("T")


class OffsetClock(SystemClock):
    """The system's clock, but for what a test adds."""

    ahead = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return super().now() + self.ahead


class Background:
    """An event loop in a thread; call it with a coroutine to wait for its result."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __call__(self, work: Coroutine[Any, Any, T], seconds: float = 120) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        """Stop the loop; nothing may run in it any more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass
class Woken:
    """A work queue that only remembers which jobs were put into it."""

    uids: list[str] = field(default_factory=list)

    def enqueue(self, uid: str) -> None:
        """Remember a job."""
        self.uids.append(uid)


@dataclass
class Operator:
    """The operator's parts, all real, as `App` wires them; a test says when it reconciles."""

    cluster: KubeCluster
    records: ConfigMapRecords
    reconciler: Reconciler
    resync: Resync
    board: MemoryBoard
    certificate: ServingCertificate
    audit: io.StringIO
    woken: Woken
    refusals: list[Mapping[str, str]]
    gateway: Gateway

    @classmethod
    def wire(cls, cluster: KubeCluster, settings: Settings, clock: OffsetClock) -> Operator:
        """Connect the parts."""
        audit, woken, refusals = io.StringIO(), Woken(), list[Mapping[str, str]]()
        store, board = WatchStore(), MemoryBoard()
        records = ConfigMapRecords(cluster, settings.namespace, [StreamSink(audit)])
        vault = VaultBroker(Path(settings.vault_token_file))
        events, progress = KubeEvents(cluster, clock), MemoryProgress()
        connection = settings.vault_connections[0]
        certificate = ServingCertificate(
            lambda: vault.issue_gateway_certificate(connection, settings.gateway_names), clock
        )
        common = (cluster, records, vault, events, progress, board)
        reconciler = Reconciler(store, *common, settings, clock, certificate.gateway_ca)
        resync = Resync(
            cluster, store, records, Woken(), namespaces=settings.watch_namespaces, seconds=5
        )
        gateway = Gateway(
            *common,
            woken,
            settings,
            clock,
            refusals=refusals.append,
            calls_per_second=1000,  # all pods of a test call from one address
        )
        return cls(
            cluster,
            records,
            reconciler,
            resync,
            board,
            certificate,
            audit,
            woken,
            refusals,
            gateway,
        )


async def serve(
    stack: AsyncExitStack,
    login: Path,
    settings: Settings,
    clock: OffsetClock,
    listener: socket.socket,
) -> Operator:
    """The operator with its gateway served on a socket, until the stack is closed."""
    cluster = await KubeCluster.connect(login)
    stack.push_async_callback(cluster.close)
    operator = Operator.wire(cluster, settings, clock)
    await stack.enter_async_context(_certified(operator.certificate))
    runner = web.AppRunner(operator.gateway.application())
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.SockSite(runner, listener, ssl_context=operator.certificate.context)
    await site.start()
    return operator


@asynccontextmanager
async def _certified(certificate: ServingCertificate) -> AsyncIterator[None]:
    task = asyncio.create_task(certificate.run())
    try:
        async with asyncio.timeout(60):
            while not certificate.valid:  # noqa: ASYNC110 it offers nothing to wait for
                await asyncio.sleep(0.02)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
