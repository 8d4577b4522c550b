"""A small world around the key gateway: a launched job, its honest pod, and ways to tamper."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from securetrain.api.digest import canonical_sha256
from securetrain.api.gateway import JobRef, ResultsRequest
from securetrain.api.names import (
    NAMESPACE_LABEL,
    NAMESPACE_LABEL_VALUE,
    SERVICE_ACCOUNT,
    SPLITS_OF,
    Purpose,
)
from securetrain.api.types import JobSpec
from securetrain.storage.connection import StorageConnection
from securetrain.vault.connection import VaultConnection
from securetrain_operator.adapters.board import MemoryBoard
from securetrain_operator.build.job import Launch, child_job
from securetrain_operator.build.network import default_deny, network_policy
from securetrain_operator.core.connections import storages_of
from securetrain_operator.core.record import ChildRecord, LaunchRecord
from securetrain_operator.gateway.server import Gateway
from securetrain_operator.ports import DigestFor, Object, Signature
from securetrain_operator.settings import Settings
from support.fakes import (
    JOBS,
    PODS,
    FakeCluster,
    FakeEvents,
    FakeProgress,
    FakeRecords,
    FakeVault,
    FakeWakeup,
    ManualClock,
    Tripwire,
)
from support.gateway_pods import NAMESPACE, NODE, honest_pod, stored_template

NETWORK_POLICIES = "networking.k8s.io/v1/networkpolicies"
AUDIENCE = "securetrain/test/gateway"
JOB_UID = "11111111-1111-4111-8111-111111111111"
DATASET_ID = "22222222-2222-4222-8222-222222222222"
IMAGE = "registry.example/trainer@sha256:" + "a" * 64
WRAPPED = "vault:v3:" + "A" * 80
DATASET_SHA256 = "d" * 64

SPEC = {
    "datasets": [{"name": "digits", "uri": "pvc://datasets/digits"}],
    "model": {"architecture": "cnn"},
    "certification": {"gates": [{"metric": "accuracy", "min": 0.97}]},
    "output": {"uri": "pvc://models/digits-v7", "kek": "team-a-models"},
}
POLICY: dict[str, Any] = {
    "format": "securetrain/policy/v1",
    "namespaces": [NAMESPACE],
    "images": ["builtin"],
    "outputKeks": ["team-a-models"],
    "gates": [{"metric": "accuracy", "min": "0.95"}],
    "notAfter": "2030-01-01T00:00:00Z",
    "networkIsolation": True,
}


def settings(**changes: Any) -> Settings:
    """Operator settings of the tests."""
    connection = VaultConnection(
        address="https://10.0.0.9:8200", ca="a CA", allowed_namespaces=(NAMESPACE,)
    )
    values: dict[str, Any] = {
        "namespace": "securetrain",
        "audience": AUDIENCE,
        "trainer_image": IMAGE,
        "gateway_url": "https://gateway.securetrain.svc:8443",
        "gateway_names": ("gateway.securetrain.svc",),
        "vault_connections": (connection,),
    }
    return Settings(**(values | changes))


class SigningVault(FakeVault):
    """Signs for real, and fails where a test says so."""

    def __init__(self, trip: Tripwire | None = None) -> None:
        super().__init__(trip)
        self.faults: dict[str, BaseException] = {}
        """Error by call: `check`, `model key`, `wrap keys`, `burn`, `sign`."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public_pem = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def _call(self, what: str) -> None:
        super()._call(what)
        if what in self.faults:
            raise self.faults[what]

    async def sign(
        self, connection: VaultConnection, digest_for: DigestFor, correlation: str
    ) -> Signature:
        await super().sign(connection, digest_for, correlation)
        der = self._key.sign(digest_for(2), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        return Signature(der, 2, self.public_pem)


class World:
    """A cluster with one launched job; its train pod runs and has called nobody yet."""

    def __init__(self, *, spec: dict[str, Any] | None = None, **setting_changes: Any) -> None:
        self.clock = ManualClock()
        self.cluster = FakeCluster(self.clock)
        self.records = FakeRecords()
        self.vault = SigningVault()
        self.events = FakeEvents()
        self.progress = FakeProgress()
        self.board = MemoryBoard()
        self.wakeup = FakeWakeup()
        self.refused: list[dict[str, str]] = []
        self.settings = settings(**setting_changes)
        self.spec = JobSpec.model_validate(spec or SPEC)
        self.job = JobRef(namespace=NAMESPACE, name="digits-v7", uid=JOB_UID)
        self.policy = copy.deepcopy(POLICY)
        self._tokens = 0
        self._start()

    def _start(self) -> None:
        body = {"metadata": {"name": self.job.name, "uid": JOB_UID}, "spec": self.spec.to_wire()}
        self.cluster.put(JOBS, NAMESPACE, body)
        label = {NAMESPACE_LABEL: NAMESPACE_LABEL_VALUE}
        self.cluster.put("v1/namespaces", None, {"metadata": {"name": NAMESPACE, "labels": label}})
        connection = self.settings.vault_connections[0]
        policy = network_policy(self.job, self.settings, connection, self.storages)
        self.cluster.put(NETWORK_POLICIES, NAMESPACE, policy)
        self.cluster.put(NETWORK_POLICIES, NAMESPACE, default_deny(NAMESPACE))
        record = LaunchRecord(
            job=self.job, spec_sha256=canonical_sha256(self.spec.run_content()), phase="Training"
        )
        self.records.set(record.appended("job.accepted", self.clock.rfc3339(), {}))
        self.launch(Purpose.TRAIN)

    @property
    def storages(self) -> tuple[StorageConnection, ...]:
        """The storage connections that the job names."""
        found = storages_of(self.spec, self.settings, NAMESPACE)
        assert found is not None
        return found

    @property
    def record(self) -> LaunchRecord:
        """The job's launch record now."""
        return self.records.now(JOB_UID)

    @property
    def record_text(self) -> str:
        """The launch record, byte for byte."""
        return self.records.stored[JOB_UID]

    @property
    def kinds(self) -> list[str]:
        """What the audit chain says happened, in order."""
        return [
            json.loads(line)["type"].removeprefix("dev.securetrain.") for line in self.record.audit
        ]

    def change(self, change: Callable[[LaunchRecord], LaunchRecord]) -> None:
        """Change the launch record behind the gateway's back."""
        self.records.set(change(self.record))

    def launch(self, purpose: Purpose) -> ChildRecord:
        """Record a child Job as the reconciler does."""
        record = self.record
        launch = Launch(
            purpose=purpose,
            job=self.job,
            labels={},
            spec=self.spec,
            record=record,
            settings=self.settings,
            connection=self.settings.vault_connections[0],
            storages=self.storages,
            gateway_ca="a CA",
        )
        body = child_job(launch)
        uid = f"33333333-3333-4333-8333-{len(record.audit):012d}"
        template = stored_template(body, uid)
        child = ChildRecord(
            name=body["metadata"]["name"],
            uid=uid,
            template=template,
            template_digest=canonical_sha256(template),
            launched=self.clock.rfc3339(),
        )
        phase = "Training" if purpose is Purpose.TRAIN else "Certifying"
        self.records.set(
            record.with_changes(phase=phase, children={**record.children, purpose: child}).appended(
                f"{purpose}.launched", self.clock.rfc3339(), {"childUid": uid}
            )
        )
        return child

    def pod(self, purpose: Purpose = Purpose.TRAIN, suffix: str = "abcde") -> Object:
        """Start an honest pod of a child Job."""
        return self.cluster.put(
            PODS, NAMESPACE, honest_pod(self.record.children[purpose], suffix, f"pod-{suffix}")
        )

    def tamper(self, pod: Object, change: Callable[[Object], Any]) -> None:
        """Change a live pod."""
        change(self.cluster.objects[(PODS, NAMESPACE, pod["metadata"]["name"])])

    def token(self, pod: Object, **changes: Any) -> str:
        """A token that the API server vouches for; `claims` and `status` override its parts."""
        self._tokens += 1
        now = int(self.clock.now())
        claims = {
            "iss": "https://kubernetes",
            "aud": [AUDIENCE],
            "iat": now,
            "exp": now + 600,
            "n": self._tokens,
        } | changes.get("claims", {})
        token = ".".join(_b64(json.dumps(part).encode()) for part in ({"alg": "none"}, claims, 0))
        extra = {
            "pod-name": pod["metadata"]["name"],
            "pod-uid": pod["metadata"]["uid"],
            "node-name": NODE,
            "credential-id": f"JTI={self._tokens}",
        } | changes.get("extra", {})
        self.cluster.tokens[token] = {
            "authenticated": True,
            "audiences": [AUDIENCE],
            "user": {
                "username": f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}",
                "extra": {f"authentication.kubernetes.io/{k}": [v] for k, v in extra.items()},
            },
        } | changes.get("status", {})
        return token

    def grant_body(self, purpose: Purpose = Purpose.TRAIN, **changes: Any) -> dict[str, Any]:
        """What an honest pod sends."""
        key = {"mount": "transit", "kek": "team-a-digits", "wrapped": WRAPPED}
        return {
            "purpose": str(purpose),
            "datasetSha256": DATASET_SHA256,
            "dataset": {"name": "digits", "id": DATASET_ID, "records": 10_000},
            "policy": base64.b64encode(json.dumps(self.policy).encode()).decode(),
            "keys": {str(split): dict(key) for split in SPLITS_OF[purpose]},
        } | changes

    def application(self, *, request_seconds: float = 30.0) -> web.Application:
        """The gateway's application in this world."""
        gateway = Gateway(
            self.cluster,
            self.records,
            self.vault,
            self.events,
            self.progress,
            self.board,
            self.wakeup,
            self.settings,
            self.clock,
            refusals=lambda refusal: self.refused.append(dict(refusal)),
            request_seconds=request_seconds,
        )
        return gateway.application()

    @asynccontextmanager
    async def client(self, *, request_seconds: float = 30.0) -> AsyncIterator[Client]:
        """The gateway, served over HTTP."""
        application = self.application(request_seconds=request_seconds)
        async with TestClient(TestServer(application)) as http:
            yield Client(self, http)


class Client:
    """Calls the gateway as pods do."""

    def __init__(self, world: World, http: TestClient[Any, Any]) -> None:
        self.world = world
        self.http = http

    async def post(self, path: str, token: str | None, body: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of a call."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.world.clock.advance(1)
        async with self.http.post(path, data=data, headers=headers) as response:
            return response.status, await _body(response)

    async def grant(self, pod: Object, **changes: Any) -> tuple[int, dict[str, Any]]:
        """Ask for the keys of a pod as it would."""
        purpose = Purpose(pod["metadata"]["labels"]["securetrain.dev/purpose"])
        body = self.world.grant_body(purpose, **changes)
        return await self.post("/v1/grants", self.world.token(pod), body)

    async def results(self, pod: Object, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Report the results of a pod."""
        return await self.post("/v1/results", self.world.token(pod), body)


def file(path: str, content: str = "") -> dict[str, Any]:
    """A file's digest, as pods report it."""
    data = (content or path).encode()
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def train_results() -> dict[str, Any]:
    """What an honest train pod reports."""
    names = ("model.json", "weights.safetensors.sealed", "key.json")
    return {
        "purpose": "train",
        "files": [file(name) for name in names],
        "plaintextSha256": "c" * 64,
    }


def certify_results(accuracy: str = "0.9752") -> dict[str, Any]:
    """What an honest certify pod reports."""
    names = ("model.json", "report.html", "report.json", "weights.safetensors.sealed")
    return {
        "purpose": "certify",
        "files": [file(name) for name in names],
        "metrics": [{"name": "accuracy", "value": accuracy}],
        "plaintextSha256": "c" * 64,
    }


def trained(world: World) -> None:
    """Let training be over and certification be launched."""
    results = ResultsRequest.model_validate(train_results())
    world.change(lambda r: r.with_changes(results={Purpose.TRAIN: results}))
    world.launch(Purpose.CERTIFY)


async def _body(response: ClientResponse) -> dict[str, Any]:
    text = await response.text()
    parsed: dict[str, Any] = json.loads(text) if text else {}
    if response.status >= 400:
        assert response.content_type == "application/problem+json"
        assert parsed["status"] == response.status
        parsed["retry"] = response.headers.get("Retry-After")
    return parsed


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
