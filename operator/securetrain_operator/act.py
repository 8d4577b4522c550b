"""Carrying out a plan: one small executor per action, each safe to repeat after dying anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from securetrain.api import names
from securetrain.api.conditions import cut
from securetrain.api.digest import canonical_sha256
from securetrain.api.names import Purpose
from securetrain.signing import dsse
from securetrain.signing.head import head_statement
from securetrain.storage.connection import StorageConnection
from securetrain.vault.connection import VaultConnection
from securetrain_operator import kinds
from securetrain_operator.build.account import service_account
from securetrain_operator.build.fidelity import differences
from securetrain_operator.build.job import Launch, child_job
from securetrain_operator.build.network import default_deny, network_policy
from securetrain_operator.core import plan, transitions
from securetrain_operator.core.connections import connection_of, storages_of
from securetrain_operator.core.decide import signer
from securetrain_operator.core.observed import Observed
from securetrain_operator.core.record import Change, ChildRecord, LaunchRecord
from securetrain_operator.errors import Conflict, LaunchAltered
from securetrain_operator.lost_grants import LostGrants
from securetrain_operator.ports import Clock, Cluster, Object, Records, Vault
from securetrain_operator.settings import Settings


class Actor:
    """Carries out actions; raises what the ports raise."""

    def __init__(
        self,
        cluster: Cluster,
        records: Records,
        vault: Vault,
        lost_grants: LostGrants,
        settings: Settings,
        clock: Clock,
        gateway_ca: Callable[[], str],
    ) -> None:
        self._cluster = cluster
        self._records = records
        self._vault = vault
        self._lost_grants = lost_grants
        self._settings = settings
        self._clock = clock
        self._gateway_ca = gateway_ca

    async def perform(self, action: plan.Action, observed: Observed, item: Object) -> None:
        """Carry out one action for the job that was observed; `item` is the job as stored."""
        match action:
            case plan.CreateRecord():
                await self._create_record(observed, item)
            case plan.EnsureAccount():
                namespace = observed.job.ref.namespace
                await self._ensure_account(namespace)
                await self._ensure_network_policy(default_deny(namespace))
            case plan.EnsureNetworkPolicy():
                connection = self._connection(observed)
                storages = self._storages(observed)
                wanted = network_policy(observed.job.ref, self._settings, connection, storages)
                await self._ensure_network_policy(wanted)
            case plan.LaunchJob():
                await self._launch(action.purpose, observed)
            case plan.DeleteChild():
                namespace = observed.job.ref.namespace
                await self._cluster.delete(kinds.JOBS, namespace, action.name, uid=action.uid)
            case plan.SetDeadline():
                await self._set_deadline(action, observed.job.ref.namespace)
            case plan.LookIntoGrant():
                await self._look_into_grant(action.pod_uid, observed, item)
            case plan.SignHead():
                await self._sign_head(observed)
            case plan.DeleteJob():
                ref = observed.job.ref
                await self._cluster.delete(
                    kinds.TRAINING_JOBS, ref.namespace, ref.name, uid=ref.uid
                )
            case _:
                change = self._transition(action)
                await self._records.update(observed.job.ref.uid, change)

    def _transition(
        self,
        action: plan.MarkFailed
        | plan.ForgetChild
        | plan.Suspend
        | plan.Resume
        | plan.AdvancePhase
        | plan.Finish
        | plan.CloseAudit,
    ) -> Change:
        time = self._clock.rfc3339()
        match action:
            case plan.MarkFailed():
                found = action.diagnosis
                text = cut(found.text)
                return transitions.failed(found.reason, text, time, action.unless_results)
            case plan.ForgetChild():
                return transitions.forgotten(action.purpose, action.uid, time)
            case plan.Suspend():
                return transitions.suspended(time)
            case plan.Resume():
                return transitions.resumed(time)
            case plan.AdvancePhase():
                return transitions.certifying(time)
            case plan.Finish():
                return transitions.succeeded(time)
            case plan.CloseAudit():
                return transitions.closed(time)
            case _:
                assert_never(action)

    async def _create_record(self, observed: Observed, item: Object) -> None:
        job = observed.job
        record = transitions.accepted(job.ref, job.spec_sha256, self._clock.rfc3339())
        await self._records.create(record, item)

    async def _ensure_account(self, namespace: str) -> None:
        """One that exists is left alone: the pods themselves say that no token is mounted."""
        found = await self._cluster.read(kinds.ACCOUNTS, namespace, names.SERVICE_ACCOUNT)
        if found is None:
            await self._cluster.create(kinds.ACCOUNTS, namespace, service_account(namespace))

    async def _ensure_network_policy(self, wanted: Object) -> None:
        name, namespace = wanted["metadata"]["name"], wanted["metadata"]["namespace"]
        found = await self._cluster.read(kinds.NETWORK_POLICIES, namespace, name)
        if found is None:
            await self._cluster.create(kinds.NETWORK_POLICIES, namespace, wanted)
        elif not _same(wanted, found):
            version = {"resourceVersion": found["metadata"]["resourceVersion"]}
            body = {**wanted, "metadata": wanted["metadata"] | version}
            await self._cluster.replace(kinds.NETWORK_POLICIES, namespace, body)

    async def _launch(self, purpose: Purpose, observed: Observed) -> None:
        """Audit, create, record: only the last step lets the gateway give keys to its pods."""
        uid, time = observed.job.ref.uid, self._clock.rfc3339()
        record = await self._records.update(uid, transitions.launching(purpose, time))
        launch = self._launch_of(purpose, observed, record)
        body = child_job(launch)
        created = await self._cluster.create(kinds.JOBS, observed.job.ref.namespace, body)
        template = created["spec"]["template"]
        changed = list(differences(body["spec"]["template"], template))
        if changed:
            raise LaunchAltered(
                f"the API server stored Job {body['metadata']['name']} with a changed template"
                f" ({', '.join(changed[:3])})",
                fix="keep mutating webhooks away from Jobs named stj-*",
            )
        child = ChildRecord(
            name=created["metadata"]["name"],
            uid=created["metadata"]["uid"],
            template=template,
            template_digest=f"sha256:{canonical_sha256(template)}",
            launched=time,
        )
        await self._records.update(uid, transitions.launched(purpose, child, launch.image))

    def _launch_of(self, purpose: Purpose, observed: Observed, record: LaunchRecord) -> Launch:
        job = observed.job
        if job.spec is None:
            raise Conflict(f"job {job.ref.name} has no valid spec any more")
        return Launch(
            purpose=purpose,
            job=job.ref,
            labels=dict(job.labels),
            spec=job.spec,
            record=record,
            settings=self._settings,
            connection=self._connection(observed),
            storages=self._storages(observed),
            gateway_ca=self._gateway_ca(),
        )

    def _connection(self, observed: Observed) -> VaultConnection:
        job = observed.job
        found = connection_of(job.spec, self._settings, job.ref.namespace) if job.spec else None
        if found is None:
            raise Conflict(f"job {job.ref.name} has no Vault connection any more")
        return found

    def _storages(self, observed: Observed) -> tuple[StorageConnection, ...]:
        job = observed.job
        found = storages_of(job.spec, self._settings, job.ref.namespace) if job.spec else None
        if found is None:
            raise Conflict(f"job {job.ref.name} has no storage connection any more")
        return found

    async def _set_deadline(self, action: plan.SetDeadline, namespace: str) -> None:
        found = await self._cluster.read(kinds.JOBS, namespace, action.child.name)
        if found is None or found["metadata"]["uid"] != action.child.uid:
            return
        spec = {
            key: value for key, value in found["spec"].items() if key != "activeDeadlineSeconds"
        }
        if action.seconds is not None:
            spec["activeDeadlineSeconds"] = action.seconds
        await self._cluster.replace(kinds.JOBS, namespace, {**found, "spec": spec})

    async def _look_into_grant(self, pod_uid: str, observed: Observed, item: Object) -> None:
        grants = observed.record.grants if observed.record else ()
        for grant in grants:
            if grant.pod_uid == pod_uid:
                await self._lost_grants.look_into(observed.job.ref.uid, grant, item)

    async def _sign_head(self, observed: Observed) -> None:
        uid = observed.job.ref.uid
        record = await self._records.get(uid)
        connection = signer(observed.job, self._settings)
        if record is None or connection is None or record.head_signature is not None:
            return
        payload = head_statement(
            record.job, genesis=record.genesis, head=record.head, records=len(record.audit)
        )
        digest = dsse.digest(dsse.INTOTO_TYPE, payload)
        correlation = names.correlation_id(uid, len(record.audit), record.head)
        signature = await self._vault.sign(connection, lambda _: digest, correlation)
        hint = dsse.key_hint(signature.public_key_pem)
        envelope = dsse.envelope(dsse.INTOTO_TYPE, payload, signature.der, hint)
        await self._records.update(uid, transitions.head_signed(record.head, envelope))


def _same(wanted: Object, found: Object) -> bool:
    """True if an object still is what we made, in the parts that matter."""
    meta = found["metadata"]
    return bool(
        found.get("spec") == wanted["spec"]
        and wanted["metadata"]["labels"].items() <= (meta.get("labels") or {}).items()
        and meta.get("ownerReferences") == wanted["metadata"].get("ownerReferences")
    )
