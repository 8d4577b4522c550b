"""Tokens that are not the pod's own or not valid any more, pods of other jobs, and a second grant.

No guard is installed, so anybody may mint any token. The Job controller sleeps meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from securetrain.api.gateway import GrantRequest, GrantResponse
from securetrain.api.names import JOB_UID_LABEL, Purpose
from securetrain.audit import chain
from securetrain.audit.reconcile import compare, parse_vault_log
from securetrain_operator.errors import Conflict
from securetrain_trainer.keys import GrantedKeys
from support.api import Object
from support.chart import AUDIENCE
from support.gateway_stage import ADDRESS, HOST, GatewayStage, job_controller_asleep, run_of
from support.imitators import PATHS, address, call, imitating, imitation, refusal
from support.installed import make_namespace
from support.real_gateway import staged
from support.real_operator import Operator, serve
from support.samples import service_account

VICTIM, SIBLING, RACED, TWICE, ENDED = "victim", "sibling", "raced", "twice", "ended"
ELSEWHERE = "elsewhere"
RACERS = 10


@pytest.fixture(scope="module")
def stage(
    control_plane: ControlPlane, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayStage]:
    folder = tmp_path_factory.mktemp("callers")
    with staged(control_plane, openbao, folder, "callers") as made:
        make_namespace(made.admin, ELSEWHERE)
        made.admin.apply(service_account(ELSEWHERE)).expect()
        yield made


@pytest.fixture(scope="module")
def pods(
    stage: GatewayStage, control_plane: ControlPlane, openbao: OpenBao
) -> Iterator[dict[str, Object]]:
    """The jobs' pods; when all is over the victim's gets its keys, and Vault's log agrees."""
    jobs = (VICTIM, SIBLING, RACED, TWICE, ENDED)
    start = len(openbao.audit_log.read_text().splitlines())
    launched = dict(zip(jobs, stage.launch(*jobs), strict=True))
    with job_controller_asleep(control_plane):
        yield launched
        assert len(stage.keys(launched[VICTIM]).splits) == 2
    log = list(parse_vault_log(openbao.audit_log.read_text().splitlines()[start:]))
    for job in (VICTIM, RACED, TWICE):
        record = stage.record(job)
        trail = chain.verify_chain(record.audit, record.genesis)
        assert compare(record.job.uid, trail, log).findings == ()


@pytest.fixture
def victim(pods: dict[str, Object]) -> Object:
    return pods[VICTIM]


@dataclass(frozen=True)
class Try:
    """A token, and from where it is used."""

    token: str
    source: str


Made = AbstractContextManager[Try]
Make = Callable[[GatewayStage, Object], Made]


def with_token(make: Callable[[GatewayStage, Object], str], source: str = "") -> Make:
    @contextmanager
    def made(stage: GatewayStage, victim: Object) -> Iterator[Try]:
        yield Try(make(stage, victim), source or victim["status"]["podIP"])

    return made


def with_claims_of(token: str, other: str) -> str:
    """A token that says what another says, with its own signature."""
    header, _, signature = token.split(".")
    return ".".join((header, other.split(".")[1], signature))


def saying_ours(token: str) -> str:
    header, claims, signature = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    text = json.dumps(said | {"aud": [AUDIENCE]}).encode()
    return ".".join((header, base64.urlsafe_b64encode(text).decode().rstrip("="), signature))


@contextmanager
def expired(stage: GatewayStage, victim: Object) -> Iterator[Try]:
    token = stage.token(victim)
    stage.clock.ahead = 700.0
    try:
        yield Try(token, victim["status"]["podIP"])
    finally:
        stage.clock.ahead = 0.0


@contextmanager
def of_another_account(stage: GatewayStage, victim: Object) -> Iterator[Try]:
    def change(pod: Object) -> None:
        pod["spec"].pop("serviceAccount")
        pod["spec"]["serviceAccountName"] = "default"

    with imitating(stage, victim, change) as thief:
        yield Try(stage.token(thief, account="default"), thief["status"]["podIP"])


@contextmanager
def on_no_node(stage: GatewayStage, victim: Object) -> Iterator[Try]:
    body = imitation(victim, lambda pod: pod["spec"].pop("nodeName"))
    thief = stage.admin.create(body).expect()
    try:
        yield Try(stage.token(thief), address())
    finally:
        stage.remove(thief)


@contextmanager
def of_a_deleted_pod(stage: GatewayStage, victim: Object) -> Iterator[Try]:
    with imitating(stage, victim) as pod:
        token = known(stage, pod)
    yield Try(token, pod["status"]["podIP"])


@contextmanager
def of_a_replaced_pod(stage: GatewayStage, victim: Object) -> Iterator[Try]:
    with imitating(stage, victim) as pod:
        token = known(stage, pod)
    name = pod["metadata"]["name"]
    with imitating(stage, victim, lambda again: again["metadata"].update(name=name)) as again:
        assert again["metadata"]["name"] == name
        yield Try(token, again["status"]["podIP"])


def known(stage: GatewayStage, pod: Object) -> str:
    """A token that the API server vouches for a while longer, though its pod be gone."""
    token = stage.token(pod)
    status = stage.background(stage.operator.cluster.review_token(token, AUDIENCE))
    assert status["authenticated"]
    return token


@contextmanager
def of_another_namespace(stage: GatewayStage, victim: Object) -> Iterator[Try]:
    body = imitation(victim, lambda pod: pod["metadata"].update(namespace=ELSEWHERE))
    path = f"/api/v1/namespaces/{ELSEWHERE}/pods"
    thief = stage.admin.create(body).expect()
    source, path = address(), f"{path}/{thief['metadata']['name']}"
    status = {**victim["status"], "podIP": source, "podIPs": [{"ip": source}]}
    stage.admin.patch(f"{path}/status", {"status": status}).expect()
    try:
        yield Try(stage.token(thief, namespace=ELSEWHERE), source)
    finally:
        stage.admin.delete(path, gracePeriodSeconds=0).expect()


CALLERS: dict[str, tuple[Make, int, str]] = {
    "no token": (with_token(lambda stage, pod: ""), 401, "no bearer token"),
    "no such token": (with_token(lambda stage, pod: "a.b.c"), 401, "claims cannot be read"),
    "another audience": (
        with_token(lambda stage, pod: stage.token(pod, "other")),
        401,
        "audience is not exactly ours",
    ),
    "a second audience": (
        with_token(lambda stage, pod: stage.token(pod, AUDIENCE, "other")),
        401,
        "audience is not exactly ours",
    ),
    "a forged audience": (
        with_token(lambda stage, pod: saying_ours(stage.token(pod, "other"))),
        401,
        "does not vouch",
    ),
    "the claims of a newer token": (
        with_token(lambda stage, pod: with_claims_of(stage.token(pod), stage.token(pod))),
        401,
        "does not vouch",
    ),
    "a long life": (
        with_token(lambda stage, pod: stage.token(pod, seconds=7200)),
        401,
        "lives longer",
    ),
    "expired": (expired, 401, "has expired"),
    "of no pod": (with_token(lambda stage, pod: stage.token(None)), 401, "not bound to a pod"),
    "of a pod on no node": (on_no_node, 401, "not bound to a pod on a node"),
    "of another account": (of_another_account, 401, "not of the jobs' service account"),
    "of the real pod, minted by somebody else": (
        with_token(lambda stage, pod: stage.token(pod), address()),
        403,
        "not come from one of the pod's addresses",
    ),
    "of the real pod, stolen from its node": (
        with_token(lambda stage, pod: stage.kubelet_token(pod), address()),
        403,
        "not come from one of the pod's addresses",
    ),
    "of a deleted pod": (of_a_deleted_pod, 403, "does not exist any more"),
    "of a pod that was replaced": (of_a_replaced_pod, 403, "does not exist any more"),
    "of a pod of another namespace": (of_another_namespace, 403, "a job of another namespace"),
}


@pytest.mark.parametrize("name", CALLERS)
def test_a_token_that_is_not_the_calling_pods_own_is_refused(
    stage: GatewayStage, victim: Object, name: str
) -> None:
    make, status, what = CALLERS[name]
    body = stage.request(victim)
    for path in PATHS:  # with a token each: that of a pod that is gone is known for ten seconds
        with make(stage, victim) as caller, stage.unharmed(VICTIM):
            answer = stage.ask(caller.token, body, path=path, source=caller.source)
            found, reason, told = refusal(stage, answer)
            assert (found, reason) == (status, "BadToken" if status == 401 else "NotOurPod")
            assert what in told


def test_a_pod_of_another_job_that_claims_this_one_is_refused(
    stage: GatewayStage, pods: dict[str, Object]
) -> None:
    victim, sibling = pods[VICTIM], pods[SIBLING]
    label = victim["metadata"]["labels"][JOB_UID_LABEL]
    owners = victim["metadata"]["ownerReferences"]
    changes = {
        "no Job of ours controls it": lambda pod: pod["metadata"]["labels"].update(
            {JOB_UID_LABEL: label}
        ),
        "metadata.labels": lambda pod: (
            pod["metadata"]["labels"].update({JOB_UID_LABEL: label}),
            pod["metadata"].update(ownerReferences=owners),
        ),
        "metadata.name": lambda pod: pod["metadata"].update(
            labels=victim["metadata"]["labels"], ownerReferences=owners
        ),
    }
    for what, change in changes.items():
        with imitating(stage, sibling, change) as thief, stage.unharmed(VICTIM, SIBLING):
            status, reason, told = refusal(stage, call(stage, thief, stage.request(victim)))
            assert (status, reason) == (403, "NotOurPod")
            assert what in told


def test_the_pod_of_another_job_gets_keys_for_its_own_job_alone(
    stage: GatewayStage, pods: dict[str, Object]
) -> None:
    with stage.unharmed(VICTIM):
        assert len(stage.keys(pods[SIBLING]).splits) == 2
    assert len(stage.record(SIBLING).grants) == 1


def test_a_train_pod_that_asks_for_the_test_key_is_refused(
    stage: GatewayStage, victim: Object
) -> None:
    asked = stage.request(victim)
    test = stage.dataset.keys["test"].to_wire()  # type: ignore[index]
    with stage.unharmed(VICTIM):
        answer = call(stage, victim, asked | {"purpose": "certify", "keys": {"test": test}})
        assert refusal(stage, answer)[:2] == (403, "NotOurPod")
        answer = call(stage, victim, asked | {"keys": asked["keys"] | {"test": test}})
        assert (answer.status, answer.body["reason"]) == (422, "InvalidInput")


def test_of_many_requests_at_once_for_one_pod_exactly_one_is_granted(
    stage: GatewayStage, pods: dict[str, Object]
) -> None:
    pod = pods[RACED]
    body, tokens = stage.request(pod), [stage.token(pod) for _ in range(RACERS)]
    with stage.unharmed(VICTIM), ThreadPoolExecutor(RACERS) as pool:
        answers = list(pool.map(lambda token: stage.ask(token, body), tokens))
    assert sorted(answer.status for answer in answers) == [200] + [409] * (RACERS - 1)
    (won,) = (answer.body for answer in answers if answer.ok)
    record = stage.record(RACED)
    assert [grant.pod_uid for grant in record.grants] == [pod["metadata"]["uid"]]
    kinds = [json.loads(line)["type"].rpartition("dev.securetrain.")[2] for line in record.audit]
    assert [kind for kind in kinds if kind.startswith("grant.")] == [
        "grant.recorded",
        "grant.issued",
    ]

    class Won:
        def grant(self, request: GrantRequest) -> GrantResponse:
            return GrantResponse.model_validate(won)

    keys = GrantedKeys(Won()).acquire(run_of(pod), stage.dataset)
    assert len(keys.splits) == 2
    with stage.unharmed(RACED):  # the same token again, now that it has served
        replayed = [stage.ask(token, body) for token in tokens[:2]]
        assert [answer.body["reason"] for answer in replayed] == ["AlreadyGranted"] * 2


@pytest.fixture
def other(stage: GatewayStage) -> Iterator[GatewayStage]:
    """A second operator with the same settings, whose gateway is asked instead of the first."""
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        stack, login = AsyncExitStack(), stage.folder / "kubeconfig"
        operator = stage.background(serve(stack, login, stage.settings, stage.clock, listener))
        url = f"https://{HOST}:{listener.getsockname()[1]}"
        try:
            yield replace(
                stage,
                operator=operator,
                settings=stage.settings.model_copy(update={"gateway_url": url}),
            )
        finally:
            stage.background(stack.aclose())


@contextmanager
def writing_at_once(*operators: Operator) -> Iterator[list[str]]:
    """The first to write a grant down waits for the other to do so; yields the conflicts."""
    conflicts = list[str]()
    barrier = asyncio.Barrier(len(operators))
    with pytest.MonkeyPatch.context() as patch:
        for operator in operators:
            work = operator.cluster.replace

            async def together(kind: str, namespace: str, body: Object, work: Any = work) -> Object:
                if conflicts or "grant.recorded" not in str(body.get("data")):
                    return dict(await work(kind, namespace, body))
                with suppress(TimeoutError):
                    async with asyncio.timeout(25):
                        await barrier.wait()
                try:
                    return dict(await work(kind, namespace, body))
                except Conflict:
                    conflicts.append(body["metadata"]["name"])
                    raise

            patch.setattr(operator.cluster, "replace", together)
        yield conflicts


def test_of_two_gateways_that_one_pod_asks_at_once_exactly_one_grants(
    stage: GatewayStage, other: GatewayStage, pods: dict[str, Object]
) -> None:
    pod = pods[TWICE]
    body, tokens = stage.request(pod), [stage.token(pod) for _ in range(2)]
    with (
        stage.unharmed(VICTIM),
        writing_at_once(stage.operator, other.operator) as conflicts,
        ThreadPoolExecutor(2) as pool,
    ):
        answers = list(pool.map(lambda one, token: one.ask(token, body), (stage, other), tokens))
    assert conflicts, "they did not meet"
    assert sorted(answer.status for answer in answers) == [200, 409]
    assert {answer.body.get("reason") for answer in answers if not answer.ok} == {"AlreadyGranted"}
    record = stage.record(TWICE)
    assert [grant.pod_uid for grant in record.grants] == [pod["metadata"]["uid"]]
    kinds = [line.type.removeprefix(chain.TYPE_PREFIX) for line in chain_of(stage, TWICE)]
    assert Counter(kinds)["grant.recorded"] == Counter(kinds)["grant.issued"] == 1


def chain_of(stage: GatewayStage, job: str) -> Sequence[chain.Record]:
    """A job's audit records, their chain whole."""
    record = stage.record(job)
    return chain.verify_chain(record.audit, record.genesis)


def test_a_pod_whose_job_has_ended_is_refused(stage: GatewayStage, pods: dict[str, Object]) -> None:
    pod = pods[ENDED]
    uid = stage.uid(ENDED)
    stage.background(
        stage.operator.records.update(
            uid, lambda record: record.failed("Cancelled", "by hand", stage.clock.rfc3339())
        )
    )
    with stage.unharmed(ENDED, VICTIM):
        for path in PATHS[:2]:
            status, reason, told = refusal(stage, call(stage, pod, stage.request(pod), path=path))
            assert (status, reason) == (403, "NotOurPod")
            assert "its job has ended" in told
        results = {"purpose": str(Purpose.TRAIN), "files": []}
        answer = call(stage, pod, results, path="/v1/results")
        assert (answer.status, answer.body["reason"]) == (403, "NotOurPod")
