"""The local store: newer wins, listings repair what watches missed."""

from __future__ import annotations

from typing import Any

from securetrain.api.names import JOB_UID_LABEL
from securetrain_operator.kinds import JOBS, PODS, TRAINING_JOBS
from securetrain_operator.store import WatchStore


def item(
    uid: str, version: int, *, job: str | None = None, namespace: str = "team-a", **more: Any
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "uid": uid,
        "name": uid,
        "namespace": namespace,
        "resourceVersion": str(version),
    }
    if job:
        metadata["labels"] = {JOB_UID_LABEL: job}
    return {"metadata": metadata, **more}


def test_objects_are_found_by_the_uid_of_their_job() -> None:
    store = WatchStore()
    assert store.put(TRAINING_JOBS, item("j1", 1)) == "j1"
    assert store.put(JOBS, item("c1", 2, job="j1")) == "j1"
    assert store.put(PODS, item("p1", 3, job="j1")) == "j1"
    assert store.put(PODS, item("p2", 4, job="j2")) == "j2"
    assert store.put(PODS, item("p3", 5)) is None
    assert [pod["metadata"]["uid"] for pod in store.pods("j1")] == ["p1"]
    assert [child["metadata"]["uid"] for child in store.children("j1")] == ["c1"]
    assert store.job("j1") is not None
    assert store.job("c1") is None
    assert store.job_uids() == ("j1",)


def test_a_deletion_names_the_job_it_concerns() -> None:
    store = WatchStore()
    store.put(PODS, item("p1", 3, job="j1"))
    assert store.delete(PODS, item("p1", 4, job="j1")) == "j1"
    assert store.pods("j1") == ()
    assert store.delete(TRAINING_JOBS, item("j1", 4)) == "j1"


def test_an_older_object_never_replaces_a_newer_one() -> None:
    store = WatchStore()
    store.put(TRAINING_JOBS, item("j1", 10, spec="new"))
    store.put(TRAINING_JOBS, item("j1", 9, spec="old"))
    assert store.job("j1") == item("j1", 10, spec="new")


def test_a_changed_label_moves_a_pod() -> None:
    store = WatchStore()
    store.put(PODS, item("p1", 1, job="j1"))
    store.put(PODS, item("p1", 2, job="j2"))
    assert store.pods("j1") == ()
    assert len(store.pods("j2")) == 1


def test_a_listing_drops_what_a_watch_missed_and_keeps_what_came_after_it() -> None:
    store = WatchStore()
    store.put(JOBS, item("ghost", 5, job="j1"))
    store.put(JOBS, item("young", 30, job="j2"))
    store.begin_listing()
    changed = store.merge_listing(JOBS, [item("missed", 7, job="j3")], 20)
    assert changed == {"j1", "j3"}
    assert store.children("j1") == ()
    assert len(store.children("j2")) == 1
    assert len(store.children("j3")) == 1


def test_a_listing_does_not_bring_back_what_was_deleted_meanwhile() -> None:
    store = WatchStore()
    store.put(TRAINING_JOBS, item("j1", 5))
    store.begin_listing()
    store.delete(TRAINING_JOBS, item("j1", 21))
    assert store.merge_listing(TRAINING_JOBS, [item("j1", 5)], 20) == set()
    assert store.job("j1") is None


def test_a_listing_of_one_namespace_leaves_the_others_alone() -> None:
    store = WatchStore()
    store.put(TRAINING_JOBS, item("a", 1, namespace="team-a"))
    store.put(TRAINING_JOBS, item("b", 1, namespace="team-b"))
    store.begin_listing()
    assert store.merge_listing(TRAINING_JOBS, [], 20, "team-a") == {"a"}
    assert store.job_uids() == ("b",)
