"""Steps 4 to 6 of a grant: may the attested pod have its keys, and what it gets.

Order matters. All that can be refused is refused before anything is recorded; the grant is recorded
before Vault is asked, so that no key can leave without a record; and it is withdrawn only if Vault
surely issued nothing. In doubt it stays, and the pod starts over as a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import GrantRequest, GrantResponse
from securetrain.api.names import NAMESPACE_LABEL, NAMESPACE_LABEL_VALUE, model_dek_context
from securetrain.errors import (
    GrantLost,
    GuardMissing,
    NotOurPod,
    PolicyDenied,
    SecuretrainError,
    VaultDenied,
    VaultUnavailable,
)
from securetrain.sealed.policy import (
    ISOLATION,
    Denial,
    PolicyRequest,
    check,
    fix_of,
    parse_policy,
)
from securetrain_operator.build.network import default_deny, network_policy
from securetrain_operator.core.observed import jobs_enabled
from securetrain_operator.core.record import LaunchRecord, ModelKey
from securetrain_operator.errors import NotIsolated, NotReady, RecordFull
from securetrain_operator.gateway.context import Services, resolve
from securetrain_operator.gateway.gatekeeper import Attested
from securetrain_operator.gateway.grant_rules import (
    Asked,
    check_grantable,
    check_manifest,
    check_mounts,
    check_pace,
    check_pins,
    check_purpose,
    issued,
    judged_image,
    recorded,
    withdrawn,
    wrap_request,
)
from securetrain_operator.gateway.isolation import intact, openings
from securetrain_operator.kinds import NAMESPACES, NETWORK_POLICIES
from securetrain_operator.ports import HeldTokens, WrappedToken

WRAP_SECONDS: Final = 20.0


class Grants:
    """Answers `POST /v1/grants` of attested pods."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def issue(self, pod: Attested, request: GrantRequest) -> GrantResponse:
        """Wrapped keys for an attested pod, once.

        Raises:
            NotOurPod: the purpose is not the pod's.
            AlreadyGranted: the pod has had its keys.
            PolicyDenied, KeyRevoked, ManifestInvalid, DatasetChanged, WrongKey, GrantsExhausted:
                for good.
            GuardMissing, VaultSealed, VaultUnavailable, …: nothing was granted; ask again.
            TooManyRequests: Vault has refused often, the last time just now.
            GrantLost: Vault may have issued tokens; only a new pod can ask again.
        """
        check_purpose(pod, request)
        # Before the manifest, so that nothing a pod says after its grant harms its job.
        check_grantable(pod.record, pod, self._services.settings.max_grants_per_phase)
        check_manifest(request)
        asked = Asked(
            pod, request, await resolve(self._services, pod), sha256_hex(bytes(request.policy))
        )
        check_mounts(asked)
        check_pins(asked, pod.record)
        await self._check_guards(pod.record.job.namespace)
        await self._check_policy(asked)
        check_pace(pod.record, self._services.clock.now())
        key = await self._model_key(asked)
        record = await self._record(asked, key)
        now = self._services.clock.now()
        tokens = await self._wrap(asked, record)
        self._hold(asked, tokens, now)
        await self._confirm(asked, tokens)
        self._services.wakeup.enqueue(pod.uid)
        await self._services.events.emit(
            asked.resolved.job,
            reason="KeysGranted",
            message=f"Pod {pod.caller.pod_name} may unwrap once: {', '.join(asked.names)}.",
        )
        wrapped = record.model_key.wrapped if record.model_key else key.wrapped
        return GrantResponse(keys=tuple(token.grant for token in tokens), wrapped_model_key=wrapped)

    async def _check_guards(self, namespace: str) -> None:
        """The guards are there, and they still hold in the pod's namespace."""
        if not jobs_enabled(await self._services.cluster.read(NAMESPACES, None, namespace)):
            label = f"{NAMESPACE_LABEL}={NAMESPACE_LABEL_VALUE}"
            raise GuardMissing(
                f"no guard holds in namespace {namespace}: it lost the label {label}",
                fix=f"have the platform admin run: kubectl label namespace {namespace} {label}",
            )
        if not self._services.settings.require_guards:
            return
        missing = await self._services.cluster.missing_guards()
        if missing:
            raise GuardMissing(
                f"admission guards are missing: {', '.join(sorted(missing))}",
                fix="have a cluster admin install the chart with guards.enabled=true",
            )

    async def _check_policy(self, asked: Asked) -> None:
        pod, policy = asked.pod, parse_policy(bytes(asked.request.policy))
        open_ways = await self._openings(asked, required=policy.network_isolation)
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
        _require_none(denials, open_ways)

    async def _openings(self, asked: Asked, *, required: bool) -> Sequence[str]:
        """Names of policies that open the pod; NotReady if ours is needed and not in place."""
        services, pod = self._services, asked.pod
        job = pod.record.job
        ours = network_policy(
            job, services.settings, asked.resolved.connection, asked.resolved.storages
        )
        policies = await services.cluster.list(NETWORK_POLICIES, job.namespace, None)
        labels = pod.pod["metadata"].get("labels") or {}
        for built in (ours, default_deny(job.namespace)):
            if required and not intact(labels, policies, built):
                services.wakeup.enqueue(pod.uid)
                raise NotReady(
                    f"NetworkPolicy {built['metadata']['name']} is missing or is not as it was"
                    " made",
                    fix=f"delete Job {pod.child.name}: the operator makes both again",
                )
        return openings(labels, policies, ours)

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

    def _hold(self, asked: Asked, tokens: Sequence[WrappedToken], since: float) -> None:
        """Keep the tokens for as long as they live, to be burnt if the pod gives up."""
        until = since + self._services.settings.wrap_ttl_seconds
        held = HeldTokens(asked.resolved.connection, tokens, until)
        self._services.board.hold(asked.pod.caller.pod_uid, held, since)

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
            if isinstance(error, NotOurPod | RecordFull):
                raise
            raise _lost("the issued tokens could not be recorded and were burnt") from None

    async def _burn(self, asked: Asked, tokens: Sequence[WrappedToken]) -> None:
        self._services.board.take(asked.pod.caller.pod_uid)
        try:
            await self._services.vault.burn(asked.resolved.connection, tokens)
        except SecuretrainError as error:
            what = f"the issued tokens could be neither recorded nor burnt ({error.reason})"
            raise _lost(what) from None


def in_doubt(error: SecuretrainError) -> bool:
    """Whether Vault may have issued tokens although it failed."""
    return isinstance(error, VaultUnavailable) and error.in_doubt


def _require_none(denials: Sequence[Denial], open_ways: Sequence[str]) -> None:
    """Raise for denials; what others put into the namespace is never the job's fault: it waits."""
    own = [denial for denial in denials if denial.rule != ISOLATION]
    if own:
        said = "; ".join(map(str, own))
        raise PolicyDenied(
            f"the data owner's policy does not allow this job: {said}", fix=fix_of(own)
        )
    if denials:
        raise NotIsolated(
            "the data owner's policy demands isolation, and NetworkPolicies open the job's"
            f" pod: {', '.join(open_ways)}",
            fix="delete them, or have them select other pods",
        )


def _in_plain_words(error: SecuretrainError) -> SecuretrainError:
    if isinstance(error, VaultDenied):
        return VaultDenied(
            f"{error.message}: this namespace's role may not use a KEK that keys.json or the job"
            " names",
            fix="restore keys.json from the data owner's copy, or run 'securetrain vault setup'",
        )
    return error


def _lost(what: str) -> GrantLost:
    return GrantLost(what, fix="start a new pod")
