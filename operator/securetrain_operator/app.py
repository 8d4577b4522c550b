"""Wiring: who gets which adapters, and in which order everything starts and stops.

Start: probes, queue, certificate, gateway, first listing, watches. Stop: gateway, queue, watches,
connections, probes. All parts are tasks of one loop under one supervisor: if any of them ends, the
process ends, so that a dead watcher never leaves a process behind that only looks alive.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast

import kopf
from aiohttp import web

from securetrain.api import names
from securetrain.errors import SecuretrainError
from securetrain_operator import handlers, health
from securetrain_operator.adapters.board import MemoryBoard
from securetrain_operator.adapters.clock import SystemClock
from securetrain_operator.adapters.events import KubeEvents
from securetrain_operator.adapters.kube import KubeCluster
from securetrain_operator.adapters.progress import MemoryProgress
from securetrain_operator.adapters.records import ConfigMapRecords
from securetrain_operator.adapters.sinks import FileSink, Sink, StreamSink
from securetrain_operator.adapters.vault import VaultBroker
from securetrain_operator.certificates import ServingCertificate
from securetrain_operator.gateway.server import Gateway
from securetrain_operator.kinds import TRAINING_JOBS
from securetrain_operator.logs import describe
from securetrain_operator.reconcile import Reconciler
from securetrain_operator.resync import Resync
from securetrain_operator.settings import Settings
from securetrain_operator.store import WatchStore
from securetrain_operator.workqueue import WorkQueue

QUEUE_STUCK_SECONDS: Final = 900.0
"""High on purpose: a Vault outage must never restart the operator."""
DRAIN_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 15.0
"""How long a connection may stay without a request; aiohttp's own limit is an hour."""
WATCH_STOP_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class App:
    """All parts of one operator process, wired but not started."""

    settings: Settings
    cluster: KubeCluster
    store: WatchStore
    progress: MemoryProgress
    board: MemoryBoard
    queue: WorkQueue
    resync: Resync
    certificate: ServingCertificate
    gateway: Gateway
    stopping: asyncio.Event

    @classmethod
    def wire(cls, settings: Settings, cluster: KubeCluster, vault: VaultBroker) -> Self:
        """Connect the parts."""
        connection = settings.vault_connections[0]
        clock, store = SystemClock(), WatchStore()
        progress, board = MemoryProgress(), MemoryBoard()
        records = ConfigMapRecords(cluster, settings.namespace, _sinks(settings))
        events = KubeEvents(cluster, clock)
        certificate = ServingCertificate(
            lambda: vault.issue_gateway_certificate(connection, settings.gateway_names), clock
        )
        common = (cluster, records, vault, events, progress, board)
        reconciler = Reconciler(store, *common, settings, clock, certificate.gateway_ca)
        queue = WorkQueue(reconciler.reconcile, workers=settings.workers)
        resync = Resync(
            cluster,
            store,
            records,
            queue,
            namespaces=settings.watch_namespaces,
            seconds=settings.resync_seconds,
        )
        return cls(
            settings=settings,
            cluster=cluster,
            store=store,
            progress=progress,
            board=board,
            queue=queue,
            resync=resync,
            certificate=certificate,
            gateway=Gateway(*common, queue, settings, clock),
            stopping=asyncio.Event(),
        )

    async def run(self, stop: asyncio.Event, on_watching: Callable[[], None] | None = None) -> None:
        """Run until `stop` is set; raises what ended a part that should run for ever.

        Args:
            stop: set it to stop in good order.
            on_watching: called when the watches start, for they take the process's signals.
        """
        async with AsyncExitStack() as stack:
            await self._serve(stack, health.application(*self._checks()), self.settings.health_port)
            tasks = _Tasks()
            stack.push_async_callback(self._shut_down, tasks)
            tasks.start("stop", stop.wait())
            tasks.start("guards", self._log_missing_guards(), may_end=True)
            tasks.start("queue", self.queue.run())
            tasks.start("certificate", self.certificate.run())
            await self._serve(
                stack,
                self.gateway.application(),
                self.settings.gateway_port,
                self.certificate.context,
            )
            tasks.start("resync", self.resync.run())
            tasks.start("watch", self._watch(on_watching))
            await tasks.first_end()
            self.stopping.set()

    async def _watch(self, on_watching: Callable[[], None] | None) -> None:
        """Run kopf. When it stops it cancels every younger task, so all of ours are older."""
        await _either(self.resync.synced, self.stopping)
        if self.stopping.is_set():  # kopf would only begin, and be slow to end
            return
        started = asyncio.Event()
        namespaces = self.settings.watch_namespaces
        hook = asyncio.create_task(_then(started, on_watching or (lambda: None)))
        try:
            await kopf.operator(
                registry=handlers.registry(self.store, self._changed),
                settings=handlers.watch_settings(),
                standalone=True,
                # Else kopf asks for the user's name, and the pod's user has none.
                identity=cast(Any, names.MANAGED_BY),
                clusterwide=not namespaces,
                namespaces=namespaces,
                ready_flag=started,
                stop_flag=self.stopping,
            )
        finally:
            hook.cancel()

    def _changed(self, uid: str, kind: str, deleted: bool) -> None:
        if deleted and kind == TRAINING_JOBS:
            self.progress.forget(uid)
            self.board.forget(uid)
        self.queue.enqueue(uid)

    def _checks(self) -> tuple[dict[str, health.Check], dict[str, health.Check]]:
        live = {"queue": lambda: self.queue.oldest_age() < QUEUE_STUCK_SECONDS}
        ready = {
            "synced": self.resync.synced.is_set,
            "certificate": lambda: self.certificate.valid,
            "running": lambda: not self.stopping.is_set(),
        }
        return live, ready

    async def _log_missing_guards(self) -> None:
        try:
            missing = await self.cluster.missing_guards()
        except SecuretrainError as error:
            log.warning("admission guards are unknown: %s", error, extra={"reason": error.reason})
            return
        if missing:
            names = ", ".join(missing)
            log.warning("admission guards are missing: %s", names, extra={"reason": "GuardMissing"})

    async def _serve(
        self,
        stack: AsyncExitStack,
        application: web.Application,
        port: int,
        context: ssl.SSLContext | None = None,
    ) -> None:
        runner = runner_of(application)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host = self.settings.listen_address
        await web.TCPSite(runner, host, port, ssl_context=context).start()

    async def _shut_down(self, tasks: _Tasks) -> None:
        """Stop the watches by their flag, for they have connections to close; cancel the rest."""
        self.stopping.set()
        await tasks.stop("watch", WATCH_STOP_SECONDS)
        await tasks.cancel()


class _Tasks:
    """The parts that run for ever."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._may_end: set[str] = set()

    def start(self, name: str, work: Coroutine[Any, Any, Any], *, may_end: bool = False) -> None:
        """Start a part."""
        self._tasks[name] = asyncio.create_task(work, name=name)
        if may_end:
            self._may_end.add(name)

    async def first_end(self) -> None:
        """Wait until a part ends, and raise what ended it."""
        endless = [task for name, task in self._tasks.items() if name not in self._may_end]
        done, _ = await asyncio.wait(endless, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error:
                log.error("%s ended: %s", task.get_name(), describe(error))
                raise error

    async def stop(self, name: str, seconds: float) -> None:
        """Give a part time to end by itself."""
        if name in self._tasks:
            await asyncio.wait([self._tasks[name]], timeout=seconds)

    async def cancel(self) -> None:
        """Cancel what is still running and wait for it."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def runner_of(application: web.Application) -> web.AppRunner:
    """A server of an application; a connection that says nothing is not held open for long."""
    return web.AppRunner(
        application,
        handle_signals=False,
        access_log=None,
        shutdown_timeout=DRAIN_SECONDS,
        keepalive_timeout=IDLE_SECONDS,
    )


async def _either(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _then(event: asyncio.Event, action: Callable[[], None]) -> None:
    await event.wait()
    action()


def _sinks(settings: Settings) -> Sequence[Sink]:
    sinks: list[Sink] = [StreamSink()]
    if settings.audit_file:
        sinks.append(FileSink(Path(settings.audit_file)))
    return sinks
