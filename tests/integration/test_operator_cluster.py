"""The API server adapter and the launch records against a real API server."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.kubectl import Kubectl
from securetrain.api.gateway import JobRef
from securetrain.api.names import API_VERSION, KIND, Purpose, launch_record
from securetrain.audit import chain
from securetrain.errors import AuditBroken, PolicyDenied
from securetrain_operator.adapters import guards
from securetrain_operator.adapters.clock import SystemClock
from securetrain_operator.adapters.events import KubeEvents
from securetrain_operator.adapters.kube import KubeCluster
from securetrain_operator.adapters.records import ConfigMapRecords
from securetrain_operator.core import transitions
from securetrain_operator.core.record import ChildRecord, LaunchRecord
from securetrain_operator.errors import (
    AlreadyExists,
    ApiUnavailable,
    Conflict,
    RecordFull,
    RecordGone,
    SinkUnavailable,
)
from securetrain_operator.kinds import CONFIG_MAPS
from securetrain_operator.ports import Object
from support.api import Api
from support.chart import named
from support.installed import BINDINGS, chart_installed

TIME = "2026-01-02T03:04:05Z"
numbers = itertools.count(1)


@dataclass
class ListSink:
    """Keeps lines; refuses them while `full`."""

    lines: list[str] = field(default_factory=list)
    full: bool = False

    async def write(self, lines: Sequence[str]) -> None:
        if self.full:
            raise SinkUnavailable("full")
        self.lines += lines


class LostAnswers(KubeCluster):
    """Loses the answers to the next writes after they were done, or lets others be first."""

    lose = 0
    overtaken = 0

    async def replace(self, kind: str, namespace: str, body: Object) -> Object:
        if self.overtaken:
            self.overtaken -= 1
            raise Conflict("somebody else was first")
        stored = await super().replace(kind, namespace, body)
        if self.lose:
            self.lose -= 1
            raise ApiUnavailable("the answer was lost")
        return stored


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> AsyncIterator[LostAnswers]:
    made = await LostAnswers.connect(control_plane.kubeconfig)
    yield made
    await made.close()


@pytest.fixture
def namespace(kubectl: Kubectl) -> str:
    name = f"operator-{next(numbers)}"
    kubectl("create", "namespace", name)
    return name


@pytest.fixture
def sink() -> ListSink:
    return ListSink()


@pytest.fixture
def records(cluster: LostAnswers, namespace: str, sink: ListSink) -> ConfigMapRecords:
    return ConfigMapRecords(cluster, namespace, [sink])


def job(uid: str = "00000000-0000-4000-8000-000000000001", namespace: str = "team-a") -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "digits", "namespace": namespace, "uid": uid},
    }


def record(uid: str = "00000000-0000-4000-8000-000000000001") -> LaunchRecord:
    ref = JobRef(namespace="team-a", name="digits", uid=uid)
    return LaunchRecord(job=ref, spec_sha256="a" * 64).appended("job.accepted", TIME, {})


UID = record().job.uid


def noting(text: str) -> Callable[[LaunchRecord], LaunchRecord]:
    return lambda old: old.appended("note", TIME, {"text": text})


async def test_a_record_comes_back_as_it_was_stored(
    records: ConfigMapRecords, sink: ListSink
) -> None:
    assert await records.get(UID) is None
    template = {"metadata": {"creationTimestamp": None, "labels": {"a": "b"}}, "spec": {"x": [1]}}
    child = ChildRecord(name="n", uid="u", template=template, template_digest="d", launched=TIME)
    made = record().with_changes(children={Purpose.TRAIN: child})
    assert await records.create(made, job()) == made
    assert await records.get(UID) == made
    assert await records.create(record().appended("other", TIME, {}), job()) == made
    assert sink.lines == list(made.audit)
    assert list(await records.uids()) == [UID]
    await records.delete(UID)
    await records.delete(UID)
    assert await records.get(UID) is None


async def test_concurrent_updates_of_two_processes_lose_nothing_and_keep_the_chain_whole(
    cluster: LostAnswers, namespace: str
) -> None:
    sinks = [ListSink(), ListSink()]
    processes = [ConfigMapRecords(cluster, namespace, [sink]) for sink in sinks]
    await processes[0].create(record(), job())

    async def note(process: ConfigMapRecords, text: str) -> None:
        for number in range(8):
            while True:
                with suppress(Conflict):  # after many tries in vain, as the reconciler takes it too
                    await process.update(UID, noting(text + str(number)))
                    break

    await asyncio.gather(*(note(processes[n % 2], name) for n, name in enumerate("abcd")))
    stored = await processes[0].get(UID)
    assert stored is not None
    parsed = chain.verify_chain(stored.audit, stored.genesis)
    notes = [line.data["text"] for line in parsed if line.type.endswith("note")]
    assert sorted(notes) == [f"{name}{number}" for name in "abcd" for number in range(8)]
    published = {line for sink in sinks for line in sink.lines}
    assert set(stored.audit) <= published


async def test_a_change_that_raises_or_changes_nothing_writes_nothing(
    records: ConfigMapRecords, cluster: LostAnswers, namespace: str, sink: ListSink
) -> None:
    await records.create(record(), job())
    before = await cluster.read(CONFIG_MAPS, namespace, launch_record(UID))

    def refuse(_: LaunchRecord) -> LaunchRecord:
        raise PolicyDenied("no")

    with pytest.raises(PolicyDenied):
        await records.update(UID, refuse)
    await records.update(UID, lambda old: old)
    await records.update(UID, lambda old: old.with_changes())
    assert await cluster.read(CONFIG_MAPS, namespace, launch_record(UID)) == before
    assert len(sink.lines) == 1


async def test_a_lost_answer_is_looked_up_instead_of_doing_the_change_twice(
    records: ConfigMapRecords, cluster: LostAnswers, sink: ListSink
) -> None:
    await records.create(record(), job())
    cluster.lose = 1
    changed = await records.update(UID, lambda old: old.appended("grant.recorded", TIME, {}))
    assert len(changed.audit) == 2
    assert await records.get(UID) == changed
    assert sink.lines == list(changed.audit)


async def test_an_update_that_is_overtaken_begins_anew_and_gives_up_at_last(
    records: ConfigMapRecords, cluster: LostAnswers, sink: ListSink
) -> None:
    await records.create(record(), job())
    cluster.overtaken = 3
    changed = await records.update(UID, noting("patient"))
    assert await records.get(UID) == changed
    assert sink.lines == list(changed.audit)
    cluster.overtaken = 1000
    with pytest.raises(Conflict, match="keeps changing"):
        await records.update(UID, noting("in vain"))
    assert await records.get(UID) == changed


async def test_a_sink_that_is_full_stops_the_swap(
    records: ConfigMapRecords, sink: ListSink
) -> None:
    await records.create(record(), job())
    sink.full = True
    with pytest.raises(SinkUnavailable):
        await records.update(UID, lambda old: old.appended("grant.recorded", TIME, {}))
    assert await records.get(UID) == record()


async def test_a_change_cannot_rewrite_the_chain_or_the_job(records: ConfigMapRecords) -> None:
    await records.create(record(), job())
    with pytest.raises(AuditBroken):
        await records.update(UID, lambda old: old.with_changes(audit=()))
    other = JobRef(namespace="team-b", name="digits", uid=UID)
    with pytest.raises(AuditBroken):
        await records.update(UID, lambda old: old.with_changes(job=other))
    assert await records.get(UID) == record()


async def test_a_record_that_somebody_edited_is_not_loaded(
    records: ConfigMapRecords, kubectl: Kubectl, namespace: str
) -> None:
    await records.create(record().appended("note", TIME, {}), job())
    stored = json.loads(
        kubectl("get", "configmap", launch_record(UID), "-n", namespace, "-o", "json")
    )
    text = stored["data"]["record.json"]
    edits = [
        text.replace("job.accepted", "job.declined"),  # a line in the middle of the chain
        text.replace('"specSha256":"aaaa', '"specSha256":"bbbb'),  # what the genesis is made of
        text.replace(UID, UID[:-1] + "2"),  # another job's record
        text.replace('"phase":"Pending"', '"phase":"Done"'),
        text[:-1],
        "",
    ]
    for edited in edits:
        assert edited != text
        patch = json.dumps({"data": {"record.json": edited}})
        kubectl("patch", "configmap", launch_record(UID), "-n", namespace, "-p", patch)
        with pytest.raises(AuditBroken):
            await records.get(UID)
        with pytest.raises(AuditBroken):
            await records.update(UID, lambda old: old.failed("X", "y", TIME))


async def test_a_record_that_would_not_fit_says_what_to_do(records: ConfigMapRecords) -> None:
    await records.create(record(), job())
    huge = {"text": "x" * 60_000}

    def grow(old: LaunchRecord) -> LaunchRecord:
        for _ in range(16):
            old = old.appended("note", TIME, huge)
        return old

    with pytest.raises(RecordFull, match="more than 900000"):
        await records.update(UID, grow)
    assert await records.get(UID) == record()


async def test_a_full_record_has_room_for_the_jobs_end(records: ConfigMapRecords) -> None:
    await records.create(record(), job())
    huge = {"text": "x" * 63_000}
    for _ in range(14):
        await records.update(UID, lambda old: old.appended("note", TIME, huge))
    with pytest.raises(RecordFull):
        await records.update(UID, lambda old: old.appended("note", TIME, huge))
    await records.update(UID, lambda old: old.failed("RecordFull", "y" * 20_000, TIME))
    ended = await records.update(UID, transitions.closed(TIME))
    signed = transitions.head_signed(ended.head, "z" * 60_000)
    assert (await records.update(UID, signed)).head_signature is not None


async def test_no_record_no_update(records: ConfigMapRecords) -> None:
    with pytest.raises(RecordGone):
        await records.update(UID, lambda old: old)


async def test_objects_live_and_die(cluster: LostAnswers, namespace: str) -> None:
    body: Object = {"metadata": {"name": "c", "labels": {"a": "b"}}, "data": {"k": "1"}}
    stored = await cluster.create(CONFIG_MAPS, namespace, body)
    with pytest.raises(AlreadyExists):
        await cluster.create(CONFIG_MAPS, namespace, body)
    assert await cluster.read(CONFIG_MAPS, namespace, "c") == stored
    replaced = await cluster.replace(CONFIG_MAPS, namespace, stored | {"data": {"k": "2"}})
    assert replaced["data"] == {"k": "2"}
    with pytest.raises(Conflict):
        await cluster.replace(CONFIG_MAPS, namespace, stored | {"data": {"k": "3"}})
    (listed,) = await cluster.list(CONFIG_MAPS, namespace, {"a": "b"})
    assert (listed["kind"], listed["apiVersion"]) == ("ConfigMap", "v1")
    await cluster.delete(CONFIG_MAPS, namespace, "c", uid="another")
    assert await cluster.read(CONFIG_MAPS, namespace, "c")
    await cluster.delete(CONFIG_MAPS, namespace, "c", uid=stored["metadata"]["uid"])
    assert await cluster.read(CONFIG_MAPS, namespace, "c") is None
    with pytest.raises(ApiUnavailable):
        await cluster.create(CONFIG_MAPS, "absent", body)
    with pytest.raises(ApiUnavailable, match="does not serve"):
        await cluster.list("absent.example/v1/things", None)


async def test_tokens_are_reviewed_for_one_audience(
    cluster: LostAnswers, kubectl: Kubectl, namespace: str
) -> None:
    kubectl("create", "serviceaccount", "sa", "-n", namespace)
    token = kubectl("create", "token", "sa", "-n", namespace, "--audience=ours").strip()
    status = await cluster.review_token(token, "ours")
    assert status["authenticated"]
    assert status["user"]["username"] == f"system:serviceaccount:{namespace}:sa"
    for audience, text in (("theirs", token), ("ours", token[:-4])):
        assert not (await cluster.review_token(text, audience)).get("authenticated")


async def test_an_event_said_again_is_counted(
    cluster: LostAnswers, kubectl: Kubectl, namespace: str
) -> None:
    about = job(namespace=namespace)
    events = KubeEvents(cluster, SystemClock())
    for _ in range(3):
        await events.emit(about, reason="KeysGranted", message="x" * 2000)
    await KubeEvents(cluster, SystemClock()).emit(about, reason="KeysGranted", message="x" * 2000)
    await events.emit(about, reason="Failed", message="no", warning=True)
    found = json.loads(kubectl("get", "events", "-n", namespace, "-o", "json"))["items"]
    seen = {item["reason"]: (item["type"], item["count"], len(item["message"])) for item in found}
    assert seen == {"KeysGranted": ("Normal", 3, 1024), "Failed": ("Warning", 1, 2)}
    assert found[0]["involvedObject"]["uid"] == UID


async def test_an_event_that_cannot_be_posted_is_only_logged(
    cluster: LostAnswers, caplog: pytest.LogCaptureFixture
) -> None:
    await KubeEvents(cluster, SystemClock()).emit(job(namespace="absent"), reason="X", message="y")
    assert "was not posted" in caplog.text


async def test_the_charts_guards_count_as_in_place_and_their_loss_is_noticed(
    control_plane: ControlPlane,
) -> None:
    async def missing() -> list[str]:
        fresh = await KubeCluster.connect(control_plane.kubeconfig)
        try:
            return list(await fresh.missing_guards())
        finally:
            await fresh.close()

    admin = Api(control_plane.kubeconfig)
    with chart_installed(admin) as objects:
        assert await missing() == []
        for guard in guards.GUARDS:
            admin.delete(f"{BINDINGS}/{guard}").expect()
            assert await missing() == [guard]
            admin.apply(named(objects, "ValidatingAdmissionPolicyBinding", guard)).expect()
    assert await missing() == list(guards.GUARDS)
