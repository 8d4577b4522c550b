"""Steps 4 to 6 of a grant: may the attested pod have its keys, and what it gets.

Order matters. All that can be refused is refused before anything is recorded; the grant is recorded
before Vault is asked, so that no key can leave without a record; and it is withdrawn only if Vault
surely issued nothing. In doubt it stays, and the pod starts over as a new one.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import MAX_POLICY_BYTES, GrantRequest, GrantResponse
from securetrain.api.names import (
    MODEL_KEY_NAME,
    SPLITS_OF,
    Purpose,
    correlation_id,
    dek_associated_data,
    model_dek_context,
    network_policy,
)
from securetrain.errors import (
    AlreadyGranted,
    GrantLost,
    GuardMissing,
    InvalidInput,
    ManifestInvalid,
    NotOurPod,
    PolicyDenied,
    SecuretrainError,
    VaultUnavailable,
    WrongKey,
)
from securetrain.sealed.policy import PolicyRequest, check, parse_policy
from securetrain_operator.core.record import GrantRecord, LaunchRecord, ModelKey, PinnedDataset
from securetrain_operator.errors import DatasetChanged, GrantsExhausted
from securetrain_operator.gateway.context import Resolved, Services, resolve
from securetrain_operator.gateway.gatekeeper import Attested
from securetrain_operator.gateway.isolation import openings
from securetrain_operator.ports import WrappedToken, WrapRequest

NETWORK_POLICIES: Final = "networking.k8s.io/v1/networkpolicies"
WRAP_SECONDS: Final = 20.0
DATASET_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
MAX_RECORDS: Final = 2**53 - 1
BUILTIN: Final = "builtin@"

Change = Callable[[LaunchRecord], LaunchRecord]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for keys: who asks, for what, and what was resolved for it."""

    pod: Attested
    request: GrantRequest
    resolved: Resolved
    policy_sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the keys."""
        return (*(str(split) for split in SPLITS_OF[self.request.purpose]), MODEL_KEY_NAME)


class Grants:
    """Answers `POST /v1/grants` of attested pods."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def issue(self, pod: Attested, request: GrantRequest) -> GrantResponse:
        """Wrapped keys for an attested pod, once.

        Raises:
            NotOurPod: the purpose is not the pod's.
            AlreadyGranted: the pod has had its keys.
            PolicyDenied, ManifestInvalid, DatasetChanged, WrongKey, GrantsExhausted: for good.
            GuardMissing, VaultSealed, VaultUnavailable, …: nothing was granted; ask again.
            GrantLost: Vault may have issued tokens; only a new pod can ask again.
        """
        check_request(pod, request)
        check_grantable(pod.record, pod, self._services.settings.max_grants_per_phase)
        asked = Asked(
            pod, request, await resolve(self._services, pod), sha256_hex(bytes(request.policy))
        )
        check_mounts(asked)
        check_pins(asked, pod.record)
        await self._check_guards()
        await self._check_policy(asked)
        key = await self._model_key(asked)
        record = await self._record(asked, key)
        tokens = await self._wrap(asked, record)
        await self._confirm(asked, tokens)
        self._services.wakeup.enqueue(pod.uid)
        await self._services.events.emit(
            asked.resolved.job,
            reason="KeysGranted",
            message=f"Pod {pod.caller.pod_name} may unwrap once: {', '.join(asked.names)}.",
        )
        wrapped = record.model_key.wrapped if record.model_key else key.wrapped
        return GrantResponse(keys=tuple(token.grant for token in tokens), wrapped_model_key=wrapped)

    async def _check_guards(self) -> None:
        if not self._services.settings.require_guards:
            return
        missing = await self._services.cluster.missing_guards()
        if missing:
            raise GuardMissing(
                f"admission guards are missing: {', '.join(sorted(missing))}",
                fix="have a cluster admin install the chart with guards.enabled=true",
            )

    async def _check_policy(self, asked: Asked) -> None:
        policy = parse_policy(bytes(asked.request.policy))
        pod = asked.pod
        policies = await self._services.cluster.list(
            NETWORK_POLICIES, pod.record.job.namespace, None
        )
        labels = pod.pod["metadata"].get("labels") or {}
        open_ways = openings(labels, policies, network_policy(pod.record.job.name))
        image, builtin = judged_image(pod)
        denials = check(
            policy,
            PolicyRequest(
                namespace=pod.record.job.namespace,
                image=image,
                builtin=builtin,
                output_kek=pod.run.model_kek,
                isolated=not open_ways,
                gates=pod.run.gates,
                now=self._services.clock.now(),
            ),
        )
        if denials:
            said = "; ".join(map(str, denials))
            ways = f" ({'; '.join(open_ways)})" if open_ways else ""
            raise PolicyDenied(
                f"the data owner's policy does not allow this job: {said}{ways}",
                fix="change the job, or ask the data owner for another policy",
            )

    async def _model_key(self, asked: Asked) -> ModelKey:
        """The run's model DEK; the login shows that Vault is there before anything is recorded."""
        vault, connection = self._services.vault, asked.resolved.connection
        namespace = asked.pod.record.job.namespace
        await vault.check(connection, namespace)
        if asked.pod.record.model_key is not None:
            return asked.pod.record.model_key
        context = model_dek_context(asked.pod.uid, asked.policy_sha256)
        return await vault.new_model_key(connection, namespace, asked.pod.run.model_kek, context)

    async def _record(self, asked: Asked, key: ModelKey) -> LaunchRecord:
        settings, time = self._services.settings, self._services.clock.rfc3339()
        change = recorded(asked, key, time, settings.max_grants_per_phase)
        return await self._services.records.update(asked.pod.uid, change)

    async def _wrap(self, asked: Asked, record: LaunchRecord) -> Sequence[WrappedToken]:
        request = wrap_request(asked, record, self._services.settings.wrap_ttl_seconds)
        try:
            async with asyncio.timeout(WRAP_SECONDS):
                return await self._services.vault.wrap_keys(asked.resolved.connection, request)
        except TimeoutError:
            raise _lost("Vault did not answer in time") from None
        except SecuretrainError as error:
            if in_doubt(error):
                raise _lost("Vault's answer was lost") from None
            await self._withdraw(asked, error)
            raise _in_plain_words(error) from None

    async def _withdraw(self, asked: Asked, error: SecuretrainError) -> None:
        change = withdrawn(asked.pod, error.reason, self._services.clock.rfc3339())
        try:
            await self._services.records.update(asked.pod.uid, change)
        except SecuretrainError:
            raise _lost("nothing was issued, but the grant could not be withdrawn") from None

    async def _confirm(self, asked: Asked, tokens: Sequence[WrappedToken]) -> None:
        change = issued(asked.pod, tokens, self._services.clock.rfc3339())
        try:
            await self._services.records.update(asked.pod.uid, change)
        except SecuretrainError as error:
            await self._burn(asked, tokens)
            if isinstance(error, NotOurPod):
                raise
            raise _lost("the issued tokens could not be recorded and were burnt") from None

    async def _burn(self, asked: Asked, tokens: Sequence[WrappedToken]) -> None:
        try:
            await self._services.vault.burn(asked.resolved.connection, tokens)
        except SecuretrainError as error:
            what = f"the issued tokens could be neither recorded nor burnt ({error.reason})"
            raise _lost(what) from None


def check_request(pod: Attested, request: GrantRequest) -> None:
    """The purpose fits the pod, and the keys are exactly those of the purpose."""
    if request.purpose != pod.purpose:
        raise NotOurPod(f"{pod.caller}: it asks for keys of another purpose")
    wanted = set(SPLITS_OF[request.purpose])
    if set(request.keys) != wanted:
        raise InvalidInput(
            "keys",
            ", ".join(sorted(request.keys)),
            "are not the splits of this purpose",
            fix=f"send exactly {', '.join(sorted(wanted))}",
        )
    if len(request.policy) > MAX_POLICY_BYTES:
        raise ManifestInvalid(
            f"policy.json has {len(request.policy)} bytes, more than {MAX_POLICY_BYTES}"
        )
    dataset = request.dataset
    if not DATASET_ID.fullmatch(dataset.id or ""):
        raise ManifestInvalid("dataset.json: id is not a lower-case UUID")
    if not 0 <= (dataset.records or 0) <= MAX_RECORDS:
        raise ManifestInvalid("dataset.json: records is not a count")


def check_mounts(asked: Asked) -> None:
    """All keys are wrapped under the transit mount of the job's own connection."""
    mount = asked.resolved.connection.transit_mount
    strange = sorted(s for s, key in asked.request.keys.items() if key.mount != mount)
    if strange:
        raise ManifestInvalid(
            f"keys.json: the keys of {', '.join(strange)} are not of transit mount {mount}",
            fix="seal the dataset with the Vault connection that the job names",
        )


def check_pins(asked: Asked, record: LaunchRecord) -> None:
    """Manifest and policy are those that were pinned; raises DatasetChanged."""
    digest, policy_digest = _digests(asked)
    pinned, run = record.dataset, asked.pod.run
    if run.dataset_digest is not None and run.dataset_digest != digest:
        raise DatasetChanged(
            f"dataset.json is {digest}, the job pins {run.dataset_digest}",
            fix="put the pinned dataset back, or run a new job with the new digest",
        )
    if pinned is not None and (pinned.digest, pinned.policy_digest) != (digest, policy_digest):
        raise DatasetChanged(
            f"dataset.json and policy.json are {digest} and {policy_digest}, the job began with "
            f"{pinned.digest} and {pinned.policy_digest}",
            fix="put the dataset back as it was, or run a new job",
        )


def check_grantable(record: LaunchRecord, pod: Attested, limit: int) -> None:
    """Whether a record still allows this pod a grant."""
    child = record.children.get(pod.purpose)
    if record.terminal or child is None or child.uid != pod.child.uid:
        raise NotOurPod(f"{pod.caller}: its job has ended or moved on")
    if any(grant.pod_uid == pod.caller.pod_uid for grant in record.grants):
        raise AlreadyGranted("this pod has had its keys", fix="start a new pod")
    if pod.purpose is Purpose.CERTIFY and Purpose.TRAIN not in record.results:
        raise NotOurPod(f"{pod.caller}: there is nothing to certify")
    if sum(grant.purpose == pod.purpose for grant in record.grants) >= limit:
        raise GrantsExhausted(
            f"{limit} pods of the {pod.purpose} phase have had keys and none has finished",
            fix="look at the pods' logs; then run the job again under a new name",
        )


def judged_image(pod: Attested) -> tuple[str, bool]:
    """The train image that the policy judges, and whether it is the operator's own.

    For a train pod it is the very image of the attested pod. The certifier is the operator's own
    and is judged by what it certifies.
    """
    told = pod.run.image
    image = pod.image if pod.purpose is Purpose.TRAIN else told
    digest = image.rpartition("@")[2]
    return image, told.startswith(BUILTIN) and told.removeprefix(BUILTIN) == digest


def recorded(asked: Asked, key: ModelKey, time: str, limit: int) -> Change:
    """The change that records a grant, with all that is checked once more on the newest record."""
    pod, request = asked.pod, asked.request
    digest, policy_digest = _digests(asked)
    pinned = PinnedDataset(
        name=pod.run.dataset_name,
        id=request.dataset.id or "",
        digest=digest,
        policy_digest=policy_digest,
        policy=base64.b64encode(request.policy),
        records=request.dataset.records or 0,
    )
    grant = GrantRecord(
        pod_uid=pod.caller.pod_uid,
        pod_name=pod.caller.pod_name,
        pod_ip=pod.address,
        purpose=pod.purpose,
        time=time,
        keys=asked.names,
    )

    def change(record: LaunchRecord) -> LaunchRecord:
        check_grantable(record, pod, limit)
        check_pins(asked, record)
        model_key = record.model_key or key
        return record.with_changes(
            dataset=record.dataset or pinned, model_key=model_key, grants=(*record.grants, grant)
        ).appended("grant.recorded", time, grant_data(asked, model_key, record.attempt))

    return change


def issued(pod: Attested, tokens: Sequence[WrappedToken], time: str) -> Change:
    """The change that notes the tokens' accessors; raises NotOurPod if the job has ended."""
    accessors = tuple(token.accessor for token in tokens)
    data = {
        "podUID": pod.caller.pod_uid,
        "accessors": [{"name": t.grant.name, "accessor": t.accessor} for t in tokens],
    }

    def change(record: LaunchRecord) -> LaunchRecord:
        mine = [grant for grant in record.grants if grant.pod_uid == pod.caller.pod_uid]
        if record.terminal or not mine:
            raise NotOurPod(f"{pod.caller}: its job has ended")
        grants = tuple(
            grant.model_copy(update={"accessors": accessors}) if grant is mine[0] else grant
            for grant in record.grants
        )
        return record.with_changes(grants=grants).appended("grant.issued", time, data)

    return change


def withdrawn(pod: Attested, reason: str, time: str) -> Change:
    """The change that takes a grant back of which Vault surely issued nothing."""

    def change(record: LaunchRecord) -> LaunchRecord:
        others = tuple(grant for grant in record.grants if grant.pod_uid != pod.caller.pod_uid)
        if record.terminal or len(others) == len(record.grants):
            return record
        data = {"podUID": pod.caller.pod_uid, "reason": reason}
        return record.with_changes(grants=others).appended("grant.withdrawn", time, data)

    return change


def grant_data(asked: Asked, model_key: ModelKey, attempt: int) -> Mapping[str, Any]:
    """What the audit record of a grant says."""
    pod = asked.pod
    wrapped = {str(split): (key.kek, key.wrapped) for split, key in asked.request.keys.items()}
    wrapped[MODEL_KEY_NAME] = (model_key.kek, model_key.wrapped)
    return {
        "podUID": pod.caller.pod_uid,
        "podName": pod.caller.pod_name,
        "podIP": pod.address,
        "node": pod.caller.node,
        "credentialID": pod.caller.credential_id,
        "purpose": str(pod.purpose),
        "attempt": attempt,
        "keys": [
            {"name": name, "kek": wrapped[name][0], "version": _kek_version(wrapped[name][1])}
            for name in asked.names
        ],
        "datasetSha256": asked.request.dataset_sha256,
        "policySha256": asked.policy_sha256,
        "image": pod.image,
        "imageID": pod.image_id,
    }


def wrap_request(asked: Asked, record: LaunchRecord, ttl: int) -> WrapRequest:
    """What Vault is asked for, anchored to the audit record that was just written."""
    if record.model_key is None:
        raise NotOurPod(f"{asked.pod.caller}: its job lost its model key")
    head, request = record.head, asked.request
    splits = SPLITS_OF[request.purpose]
    return WrapRequest(
        namespace=record.job.namespace,
        purpose=request.purpose,
        deks={split: request.keys[split] for split in splits},
        associated_data={
            split: dek_associated_data(split, request.dataset_sha256, asked.policy_sha256)
            for split in splits
        },
        model_key=record.model_key,
        model_context=model_dek_context(record.job.uid, asked.policy_sha256),
        correlation=correlation_id(record.job.uid, len(record.audit), head),
        ttl=ttl,
    )


def in_doubt(error: SecuretrainError) -> bool:
    """Whether Vault may have issued tokens although it failed; yes unless the error says no."""
    return isinstance(error, VaultUnavailable) and bool(getattr(error, "in_doubt", True))


def _in_plain_words(error: SecuretrainError) -> SecuretrainError:
    if isinstance(error, WrongKey):
        return WrongKey(
            "Vault refused: dataset.json or policy.json is not the one that was sealed",
            fix="restore both files, and keys.json, from the data owner's copy",
        )
    return error


def _lost(what: str) -> GrantLost:
    return GrantLost(what, fix="start a new pod")


def _digests(asked: Asked) -> tuple[str, str]:
    return f"sha256:{asked.request.dataset_sha256}", f"sha256:{asked.policy_sha256}"


def _kek_version(wrapped: str) -> int:
    return int(wrapped.split(":")[1].removeprefix("v"))
