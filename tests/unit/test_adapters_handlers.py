"""kopf only watches: what is registered, with which settings, and what the handlers do."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml
from kopf._cogs.structs.references import Resource

from securetrain.api.names import GROUP, JOB_UID_LABEL, PLURAL, VERSION
from securetrain_operator import handlers
from securetrain_operator.kinds import JOBS, PODS, TRAINING_JOBS
from securetrain_operator.store import WatchStore

RESOURCES = {
    TRAINING_JOBS: Resource(group=GROUP, version=VERSION, plural=PLURAL),
    JOBS: Resource(group="batch", version="v1", plural="jobs"),
    PODS: Resource(group="", version="v1", plural="pods"),
}


def registry() -> tuple[Any, WatchStore, list[tuple[str, str, bool]]]:
    store, seen = WatchStore(), list[tuple[str, str, bool]]()
    made: Any = handlers.registry(store, lambda *change: seen.append(change))
    return made, store, seen


def test_only_event_and_login_handlers_exist_so_that_kopf_writes_nothing() -> None:
    made, _, _ = registry()
    assert len(made._watching.get_all_handlers()) == 3
    for part in (made._spawning, made._changing, made._indexing, made._webhooks):
        assert list(part.get_all_handlers()) == []
    activities = {handler.activity.value for handler in made._activities.get_all_handlers()}
    assert activities == {"authentication"}


def test_label_selectors_reach_exactly_jobs_and_pods() -> None:
    selectors = handlers.watch_settings().watching.label_selectors
    assert list(selectors.collect(RESOURCES[TRAINING_JOBS])) == []
    assert list(selectors.collect(RESOURCES[JOBS])) == [JOB_UID_LABEL]
    assert list(selectors.collect(RESOURCES[PODS])) == [JOB_UID_LABEL]


def test_kopf_posts_nothing_scans_nothing_and_has_no_peers() -> None:
    settings = handlers.watch_settings()
    assert not settings.posting.enabled
    assert settings.scanning.disabled
    assert settings.peering.standalone
    assert settings.queueing.worker_limit is None


async def test_each_event_feeds_the_store_and_names_the_job() -> None:
    made, store, seen = registry()
    feeds = {handler.param: handler.fn for handler in made._watching.get_all_handlers()}
    assert set(feeds) == {TRAINING_JOBS, JOBS, PODS}
    job = {"metadata": {"uid": "j1", "resourceVersion": "1"}}
    pod = {"metadata": {"uid": "p1", "resourceVersion": "2", "labels": {JOB_UID_LABEL: "j1"}}}
    await feeds[TRAINING_JOBS](
        event={"type": None, "object": job}, param=TRAINING_JOBS, logger=None
    )
    await feeds[PODS](event={"type": "ADDED", "object": pod}, param=PODS)
    assert store.job("j1") is not None
    assert len(store.pods("j1")) == 1
    await feeds[PODS](event={"type": "DELETED", "object": pod}, param=PODS)
    assert store.pods("j1") == ()
    assert seen == [("j1", TRAINING_JOBS, False), ("j1", PODS, False), ("j1", PODS, True)]


def test_login_expires_so_that_a_rotated_token_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    info = handlers.login(settings=handlers.watch_settings())
    assert info.server == "https://api.example:6443"
    assert info.expiration is not None
    left = info.expiration - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(minutes=5) < left <= datetime.timedelta(minutes=10)


def test_login_without_any_credentials_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(kopf.LoginError):
        handlers.login(settings=handlers.watch_settings())
