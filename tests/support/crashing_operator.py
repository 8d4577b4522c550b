"""The operator's entry point with a hook at every effect, where it can be made to kill itself.

`python -m support.crashing_operator` loads the operator's code once and waits for orders on
standard input, one JSON object a line: `Order` below. For each it forks the real operator process
and says `{"pid": …}`: so a life costs no start of an interpreter. An effect is a write to the API
server, an audit line, a call that changes something at Vault, or an answer of the gateway. Each is
appended to the order's `effects` file; at the first one that the order names the process gets
SIGKILL, right before or right after it. Names begin with the phase that the launch record had.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiohttp import web

from securetrain.api.names import JOB_LABEL, RECORD_KEY
from securetrain.audit import chain
from securetrain.vault import wrap
from securetrain_operator import __main__ as operator_main
from securetrain_operator import app
from securetrain_operator.adapters.kube import KubeCluster
from securetrain_operator.adapters.sinks import Sink
from securetrain_operator.adapters.vault import VaultBroker
from securetrain_operator.gateway.server import Gateway
from securetrain_operator.kinds import CONFIG_MAPS, TRAINING_JOBS
from securetrain_operator.ports import Object
from securetrain_operator.settings import Settings

DIE_WITH_PARENT: Final = 1
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Order:
    """One life of an operator.

    Attributes:
        folder: where its standard output and error go, as `OperatorProcess` has them.
        settings, kubeconfig: files.
        effects: file that the effects are appended to.
        job: effects of this job count, and those that name no job; empty means all.
        before, after: names of effects at whose first occurrence to die, and on which side.
        gently: names of effects before whose first occurrence to be told to end, by SIGTERM.
    """

    folder: str
    settings: str
    kubeconfig: str
    effects: str
    job: str = ""
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    gently: Sequence[str] = ()


class Fuse:
    """Sees every effect before and after, and is where the process dies."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._file = os.open(order.effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._told = False
        self.phase = "New"

    async def around(self, name: str, about: str, work: Callable[[], Awaitable[Result]]) -> Result:
        """Carry an effect out, unless this is where to die."""
        entered = self.enter(name, about)
        result = await work()
        self.leave(entered)
        return result

    def enter(self, name: str, about: str = "") -> str:
        """The effect's full name; empty if it is of another job."""
        if about and self._order.job not in about:
            return ""
        full = f"{self.phase}: {name}"
        self._note({"effect": full})
        if full in self._order.gently and not self._told:
            self._told = True
            self._die({"killed": full, "how": "gently"}, signal.SIGTERM)
        if full in self._order.before:
            self._die({"killed": full, "how": "before"})
        return full

    def leave(self, full: str) -> None:
        """The effect is done."""
        if full in self._order.after:
            self._die({"killed": full, "how": "after"})

    def heed(self, config_map: Object | None) -> None:
        """Learn the phase from a launch record of the order's job."""
        text = ((config_map or {}).get("data") or {}).get(RECORD_KEY)
        if text and self._order.job in text:
            self.phase = json.loads(text)["phase"]

    def _die(self, entry: Mapping[str, Any], number: int = signal.SIGKILL) -> None:
        self._note(entry)
        os.kill(os.getpid(), number)

    def _note(self, entry: Mapping[str, Any]) -> None:
        entry = {"time": round(time.time(), 3), **entry}
        os.write(self._file, json.dumps(entry).encode() + b"\n")


class CrashingCluster(KubeCluster):
    """Writes are effects; what they are called says what they are for."""

    fuse: Fuse

    async def read(self, kind: str, namespace: str | None, name: str) -> Object | None:
        found = await super().read(kind, namespace, name)
        self.fuse.heed(found if kind == CONFIG_MAPS else None)
        return found

    async def create(self, kind: str, namespace: str, body: Object) -> Object:
        work = super().create
        made = await self.fuse.around(
            f"create {_what(kind, body)}", _job(body), lambda: work(kind, namespace, body)
        )
        self.fuse.heed(body)
        return made

    async def replace(self, kind: str, namespace: str, body: Object) -> Object:
        work = super().replace
        made = await self.fuse.around(
            f"replace {_what(kind, body)}", _job(body), lambda: work(kind, namespace, body)
        )
        self.fuse.heed(body)
        return made

    async def merge(self, kind: str, namespace: str, name: str, patch: Object) -> Object | None:
        work = super().merge
        return await self.fuse.around(
            f"merge {_plural(kind)}", name, lambda: work(kind, namespace, name, patch)
        )

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str | None = None) -> None:
        work = super().delete
        about = name if kind != CONFIG_MAPS else ""  # a launch record's name has no job's in it
        await self.fuse.around(
            f"delete {_plural(kind)}", about, lambda: work(kind, namespace, name, uid=uid)
        )

    async def write_status(self, job: Object, status: Mapping[str, Any]) -> None:
        work = super().write_status
        name = f"status {status['phase']}/{status['conditions'][0]['reason']}"
        await self.fuse.around(name, job["metadata"]["name"], lambda: work(job, status))


class CrashingVault(VaultBroker):
    """Calls that change something at Vault are effects, each wrapped key for itself."""

    fuse: Fuse

    def _new_model_key(self, *args: Any) -> Any:
        return self._around("vault model key", super()._new_model_key, *args)

    def _burn(self, *args: Any) -> Any:
        return self._around("vault burn", super()._burn, *args)

    def _sign(self, *args: Any) -> Any:
        return self._around("vault sign", super()._sign, *args)

    def _around(self, name: str, work: Callable[..., Result], *args: Any) -> Result:
        entered = self.fuse.enter(name)
        result = work(*args)
        self.fuse.leave(entered)
        return result


class CrashingGateway(Gateway):
    """An answer is an effect: a pod may act on it. Dying before it means that it is lost."""

    fuse: Fuse

    async def _post_grants(self, request: web.Request) -> web.Response:
        answer = await super()._post_grants(request)
        self.fuse.enter("answer grants")
        return answer

    async def _post_results(self, request: web.Request) -> web.Response:
        answer = await super()._post_results(request)
        self.fuse.enter("answer results")
        return answer


@dataclass(frozen=True, slots=True)
class CrashingSink:
    """Audit lines are effects."""

    fuse: Fuse
    sink: Sink

    async def write(self, lines: Sequence[str]) -> None:
        """Write them to the real sink."""
        name = " ".join(["line", *map(_kind, lines)])
        await self.fuse.around(name, "", lambda: self.sink.write(lines))


def install(fuse: Fuse) -> None:
    """Put the fuse around every adapter of this process."""
    replaced = {
        (operator_main, "KubeCluster"): CrashingCluster,
        (operator_main, "VaultBroker"): CrashingVault,
        (app, "Gateway"): CrashingGateway,
        (app, "_sinks"): _sinks(fuse, app._sinks),
        (wrap, "wrap_key"): _wrap_key(fuse, wrap.wrap_key),
    }
    for (module, name), made in replaced.items():
        setattr(module, name, made)
    CrashingCluster.fuse = CrashingVault.fuse = CrashingGateway.fuse = fuse


def _sinks(fuse: Fuse, make: Callable[[Settings], Sequence[Sink]]) -> Any:
    return lambda settings: [CrashingSink(fuse, sink) for sink in make(settings)]


def _wrap_key(fuse: Fuse, work: Callable[..., Any]) -> Any:
    def wrap_key(client: Any, key: Any, *, ttl: int, correlation: str | None) -> Any:
        if correlation is None:  # only a question
            return work(client, key, ttl=ttl, correlation=None)
        entered = fuse.enter(f"vault wrap {key.name}")
        made = work(client, key, ttl=ttl, correlation=correlation)
        fuse.leave(entered)
        return made

    return wrap_key


def _what(kind: str, body: Object) -> str:
    """What a written object is for, without names that differ from job to job."""
    text = (body.get("data") or {}).get(RECORD_KEY)
    if kind == "v1/events":
        return f"event {body['reason']}"
    if text is None:
        return f"{_plural(kind)} {_role(body)}"
    record = json.loads(text)
    last = _kind(record["audit"][-1]) if record["audit"] else "nothing"
    return f"record {'head signed' if record.get('headSignature') else last}"


def _role(body: Object) -> str:
    name, job = body["metadata"]["name"], _job(body)
    return str(name).replace(job, "*") if job else str(name)


def _job(body: Object) -> str:
    """Name of the job that an object is about, or nothing."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    involved = body.get("involvedObject") or {}
    return str(labels.get(JOB_LABEL) or involved.get("name") or "")


def _plural(kind: str) -> str:
    return "trainingjobs" if kind == TRAINING_JOBS else kind.rpartition("/")[2]


def _kind(line: str) -> str:
    return chain.parse_line(line).type.removeprefix(chain.TYPE_PREFIX)


def _become(order: Order) -> int:
    """Be the operator of an order, in this forked process."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ |= {"SECURETRAIN_SETTINGS": order.settings, "KUBECONFIG": order.kubeconfig}
    os.chdir(order.folder)
    for name, number in (("stdout", 1), ("stderr", 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    install(Fuse(order))
    return operator_main.main()


def main() -> None:
    """Fork an operator per order until standard input ends; then all of them end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()  # else each fork copies all that was loaded as soon as it collects garbage
    for line in sys.stdin:
        order = Order(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = _become(order)
            finally:
                os._exit(code)
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    main()
