"""The only kopf handlers: each puts what a watch said into the store and wakes its job up.

kopf watches, logs in and reconnects; nothing else. There are only `on.event` and `on.login`
handlers: kopf then writes nothing at all, neither finalizers nor annotations, and no logic hides in
it.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from typing import Any, Final

import kopf

from securetrain.api import names
from securetrain_operator.adapters.kube import kubeconfig
from securetrain_operator.kinds import JOBS, PODS, TRAINING_JOBS
from securetrain_operator.store import WatchStore

LOGIN_LIFE: Final = datetime.timedelta(minutes=10)
"""Credentials are read again after this, before a rotated service account token runs out."""
PREFIX: Final = f"kopf.{names.GROUP}"
EXIT_SECONDS: Final = 20.0
WATCHED: Final[Mapping[str, tuple[str, str] | tuple[str, str, str]]] = {
    TRAINING_JOBS: (names.GROUP, names.VERSION, names.PLURAL),
    JOBS: ("batch", "v1", "jobs"),
    PODS: ("v1", "pods"),
}

OnChange = Callable[[str, str, bool], None]


def registry(store: WatchStore, on_change: OnChange) -> kopf.OperatorRegistry:
    """Handlers that feed `store` and call `on_change(job uid, kind, deleted)`."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers, id="login")(login)
    for kind, selector in WATCHED.items():
        kopf.on.event(*selector, registry=handlers, id=kind.replace("/", "."), param=kind)(
            _feeder(store, on_change)
        )
    return handlers


def _feeder(store: WatchStore, on_change: OnChange) -> Callable[..., Any]:
    async def feed(event: Any, param: Any, **_: Any) -> None:
        item, deleted = dict(event["object"]), event["type"] == "DELETED"
        uid = store.delete(param, item) if deleted else store.put(param, item)
        if uid:
            on_change(uid, param, deleted)

    return feed


def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
    """A kubeconfig that KUBECONFIG names, else the pod's service account, for ten minutes."""
    found = (
        kopf.login_with_kubeconfig(settings=settings)
        if kubeconfig()
        else kopf.login_with_service_account(settings=settings)
    )
    if found is None:
        raise kopf.LoginError("neither KUBECONFIG nor a service account is there")
    now = datetime.datetime.now(datetime.UTC)
    return dataclasses.replace(found, expiration=now + LOGIN_LIFE)


def watch_settings() -> kopf.OperatorSettings:
    """Settings of kopf: watching only, with the server sending only what carries our label."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    # Tuple keys: kopf takes no notice of keys with slashes and would stream every pod of the
    # cluster.
    for kind in (JOBS, PODS):
        settings.watching.label_selectors[WATCHED[kind]] = names.JOB_UID_LABEL
    settings.process.ultimate_exiting_timeout = EXIT_SECONDS
    # Unused as long as there are only event handlers; if that changes, at least under our own
    # names.
    settings.persistence.finalizer = f"{PREFIX}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=PREFIX, v1=False)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=PREFIX, v1=False)
    return settings
