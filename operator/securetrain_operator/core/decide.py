"""What to do next about one job: a pure function of what was observed, the settings and the clock.

    decide ─ no record ─► accept, unless the job was launched before
           ─ broken or lost record ─► stop the children
           ─ Pending, Training ─► suspend | resume | launch train | watch train
           ─ Certifying ─► launch certify | watch certify
           ─ Succeeded, Failed ─► close the audit, clean up, sign the head

A plan without actions is a job at rest. Waiting is never failing; what fails at once is what no
patience can mend.
"""

from __future__ import annotations

from typing import Final

from securetrain.api import names
from securetrain.api.names import Purpose
from securetrain.api.types import JobSpec
from securetrain.errors import SecuretrainError, VaultDenied, VaultMisconfigured
from securetrain.vault.connection import VaultConnection
from securetrain_operator.core import diagnose, plan, times, transitions
from securetrain_operator.core.connections import connection_lack, connection_of, secret_names
from securetrain_operator.core.diagnose import Diagnosis
from securetrain_operator.core.observed import Child, Job, Observed, claimed_by, claims, wanted
from securetrain_operator.core.plan import Plan
from securetrain_operator.core.record import LaunchRecord
from securetrain_operator.core.verdict import GATES_MISSED_FIX, missed_lines
from securetrain_operator.errors import OutputKekUnusable
from securetrain_operator.settings import Settings

STOP_GRACE_SECONDS: Final = 60.0
"""How long a failed job's pod may take to end by itself, so that its log can be read."""
SIGN_RETRY_SECONDS: Final = 60.0
GONE_SECONDS: Final = 2.0
"""When to look again at a child Job that is being deleted."""


def decide(observed: Observed, settings: Settings, now: float) -> Plan:
    """The plan for one look at a job; the same look gives the same plan."""
    job, record = observed.job, observed.record
    if job.deleting:
        return Plan()
    if observed.broken is not None or observed.record_lost:
        return _stop(observed, settings)
    if record is None:
        return _accept(observed, settings)
    lost = _lost_grants(observed, record)
    if lost:
        return Plan(lost)
    if record.terminal:
        return _after_end(observed, record, settings, now)
    if job.spec is None or job.spec_sha256 != record.spec_sha256:
        return _fail(_changed_spec(observed))
    if wanted(record) is Purpose.TRAIN:
        return _train(observed, record, job.spec, settings, now)
    return _child(Purpose.CERTIFY, observed, record, job.spec, settings, now)


def signer(job: Job, settings: Settings) -> VaultConnection | None:
    """The connection that signs a job's audit head: its own, or the first where it has none."""
    own = connection_of(job.spec, settings, job.ref.namespace) if job.spec else None
    return own or next(iter(settings.vault_connections), None)


def refusal(spec: JobSpec, settings: Settings, namespace: str) -> Diagnosis | None:
    """What the settings forbid this job for good."""
    rule = settings.rule(namespace)
    image = spec.pod.image
    if image is not None and image not in rule.images and image != settings.trainer_image:
        fix = "use the built-in image, or have the platform admin add it to the namespace's images"
        return Diagnosis("ImageNotAllowed", f"spec.pod.image: {image} is not allowed here.", fix)
    for claim in claims(spec):
        if "*" not in rule.claims and claim not in rule.claims:
            fix = "use another claim, or have the platform admin add it to the namespace's claims"
            message = f"{claimed_by(spec, claim)}: claim {claim} is not allowed here."
            return Diagnosis("ClaimNotAllowed", message, fix)
    return None


def _stop(observed: Observed, settings: Settings) -> Plan:
    """Without a launch record that can be trusted no pod may go on: those at work hold keys."""
    children = observed.children.values()
    stops = tuple(plan.DeleteChild(c.name, c.uid) for c in children if not c.deleting)
    return Plan(stops, again_after=settings.resync_seconds)


def _accept(observed: Observed, settings: Settings) -> Plan:
    spec = observed.job.spec
    if spec is not None and spec.suspend:
        return Plan()
    if not observed.launch.namespace_enabled:
        return Plan(waiting=_not_enabled(observed), again_after=settings.resync_seconds)
    if spec is None:
        fix = "correct the field in a job of a new name"
        failed = plan.MarkFailed(Diagnosis("SpecInvalid", observed.job.fault, fix))
        return Plan((plan.CreateRecord(), failed))
    return Plan((plan.CreateRecord(),))


def _lost_grants(observed: Observed, record: LaunchRecord) -> tuple[plan.LookIntoGrant, ...]:
    """Grants whose pods gave up; once the audit is closed none can be noted any more."""
    pods = [pod for purpose in Purpose for pod in observed.pods_of(purpose)]
    gone = {pod["metadata"]["uid"] for pod in pods if diagnose.gave_up(pod)}
    lost = [g.pod_uid for g in record.grants if g.pod_uid in gone and not g.lost]
    if not lost or transitions.is_closed(record):
        return ()
    return tuple(map(plan.LookIntoGrant, lost))


def _train(
    observed: Observed, record: LaunchRecord, spec: JobSpec, settings: Settings, now: float
) -> Plan:
    trained = Purpose.TRAIN in record.results
    if spec.suspend and not trained:
        return _suspend(observed, record)
    if record.waiting_since is None:
        return Plan((plan.Resume(),))
    going = _child(Purpose.TRAIN, observed, record, spec, settings, now)
    return _within_starting_deadline(going, observed, record, spec, now)


def _suspend(observed: Observed, record: LaunchRecord) -> Plan:
    child = observed.children.get(Purpose.TRAIN)
    stop = (plan.DeleteChild(child.name, child.uid),) if child and not child.deleting else ()
    note = (plan.Suspend(),) if record.waiting_since is not None else ()
    return Plan((*stop, *note))


def _within_starting_deadline(
    going: Plan, observed: Observed, record: LaunchRecord, spec: JobSpec, now: float
) -> Plan:
    """Fail a job that has waited too long for its first running pod."""
    deadline, since = spec.starting_deadline_seconds, record.waiting_since
    if deadline is None or since is None or going.waiting is None or _has_run(observed, record):
        return going
    left = times.epoch(since) + deadline - now
    if left > 0:
        again = min(left, going.again_after or left)
        return Plan(going.actions, going.waiting, again)
    message = (
        f"spec.startingDeadlineSeconds: no pod ran within {deadline} s;"
        f" last: {going.waiting.reason}."
    )
    return _fail(Diagnosis("StartingDeadlineExceeded", message, going.waiting.text))


def _has_run(observed: Observed, record: LaunchRecord) -> bool:
    granted = any(grant.purpose is Purpose.TRAIN for grant in record.grants)
    running = any(diagnose.is_running(pod) for pod in observed.pods_of(Purpose.TRAIN))
    return granted or running or Purpose.TRAIN in record.results


def _child(
    purpose: Purpose,
    observed: Observed,
    record: LaunchRecord,
    spec: JobSpec,
    settings: Settings,
    now: float,
) -> Plan:
    known = record.children.get(purpose)
    if known is None:
        return _launch(purpose, observed, spec, settings)
    child = observed.own(purpose)
    if child is None:
        return _lost(purpose, record, known.uid)
    if child.state == "complete":
        return _complete(purpose, record)
    if child.state == "failed":
        return _child_failed(purpose, child, observed, record)
    return _active(purpose, child, observed, record, spec, settings, now)


def _launch(purpose: Purpose, observed: Observed, spec: JobSpec, settings: Settings) -> Plan:
    forbidden = refusal(spec, settings, observed.job.ref.namespace)
    if forbidden:
        return _fail(forbidden)
    lacking = _lacking(observed, spec, settings)
    if lacking:
        return Plan(waiting=lacking, again_after=settings.resync_seconds)
    stray = observed.stray(purpose)
    if stray and stray.deleting:
        name = f"{stray.name} of an earlier attempt"
        gone = Diagnosis("ChildDeleting", f"the Job {name} is still being deleted.")
        return Plan(waiting=gone, again_after=GONE_SECONDS)
    discard = (plan.DeleteChild(stray.name, stray.uid),) if stray else ()
    return Plan(
        (*discard, plan.EnsureAccount(), plan.EnsureNetworkPolicy(), plan.LaunchJob(purpose))
    )


def _lacking(observed: Observed, spec: JobSpec, settings: Settings) -> Diagnosis | None:
    """The first thing that a launch has to wait for."""
    seen, namespace = observed.launch, observed.job.ref.namespace
    name = spec.vault_connection_ref.name
    if not seen.namespace_enabled:
        return _not_enabled(observed)
    unusable = connection_lack(spec, settings, namespace)
    if unusable:
        return unusable
    if seen.missing_claims:
        what = "; ".join(f"{claimed_by(spec, c)}: claim {c}" for c in seen.missing_claims)
        fix = f"create the PersistentVolumeClaim in namespace {namespace}"
        return Diagnosis("ClaimMissing", f"{what} does not exist.", fix)
    if seen.missing_guards and settings.require_guards:
        what = ", ".join(seen.missing_guards)
        fix = "have a cluster admin install the chart's admission policies; see securetrain doctor"
        return Diagnosis("GuardMissing", f"missing admission guards: {what}.", fix)
    if seen.vault_fault is None:
        return None
    lack = vault_lack(seen.vault_fault, namespace)
    if isinstance(seen.vault_fault, OutputKekUnusable):
        return lack
    return Diagnosis(lack.reason, f"Vault connection {name}: {lack.message}", lack.fix)


def vault_lack(fault: SecuretrainError, namespace: str) -> Diagnosis:
    """What a job waits for when the check of Vault failed."""
    found = diagnose.from_error(fault)
    if isinstance(fault, VaultDenied | VaultMisconfigured):
        fix = f"run securetrain vault setup for namespace {namespace}"
        own = fault.fix if fault.fix != fault.usual_fix else fix
        return Diagnosis("VaultRoleMissing", found.message, own)
    return found


def _not_enabled(observed: Observed) -> Diagnosis:
    label = f"{names.NAMESPACE_LABEL}={names.NAMESPACE_LABEL_VALUE}"
    namespace = observed.job.ref.namespace
    return Diagnosis(
        "NamespaceNotEnabled",
        f"namespace {namespace} is not enabled for secure training.",
        f"have the platform admin run: kubectl label namespace {namespace} {label}",
    )


def _lost(purpose: Purpose, record: LaunchRecord, uid: str) -> Plan:
    """The recorded Job is gone: somebody deleted it."""
    if purpose is Purpose.TRAIN and purpose in record.results:
        return Plan((plan.AdvancePhase(),))
    return Plan((plan.ForgetChild(purpose, uid),))


def _complete(purpose: Purpose, record: LaunchRecord) -> Plan:
    if purpose not in record.results:
        fix = "see the pod's log; run the job again under a new name"
        message = f"the {purpose} pod ended without reporting what it produced."
        return _fail(Diagnosis("ResultsMissing", message, fix), unless_results=purpose)
    if purpose is Purpose.TRAIN:
        return Plan((plan.AdvancePhase(),))
    return _judged(record)


def _judged(record: LaunchRecord) -> Plan:
    verdict = record.verdict
    if verdict is not None and verdict.outcome == "gatesMissed":
        return _fail(_gates_missed(record))
    if verdict is not None and verdict.bundle:
        return Plan((plan.Finish(),))
    fix = "see the audit trail; run the job again under a new name"
    return _fail(Diagnosis("SignatureMissing", "certify ended, but nothing was signed.", fix))


def _gates_missed(record: LaunchRecord) -> Diagnosis:
    missed = "; ".join(missed_lines(record.verdict.gates if record.verdict else ()))
    text = diagnose.one_line(missed or "a gate was missed")
    return Diagnosis("GatesMissed", f"{text}.", GATES_MISSED_FIX)


def _child_failed(purpose: Purpose, child: Child, observed: Observed, record: LaunchRecord) -> Plan:
    verdict = record.verdict
    if purpose is Purpose.CERTIFY and verdict is not None and verdict.outcome == "gatesMissed":
        return _fail(_gates_missed(record))
    if purpose is Purpose.TRAIN and purpose in record.results:  # a later pod failed: no loss
        return Plan((plan.AdvancePhase(),))
    return _fail(diagnose.failure(observed.pods_of(purpose), child.reason))


def _active(
    purpose: Purpose,
    child: Child,
    observed: Observed,
    record: LaunchRecord,
    spec: JobSpec,
    settings: Settings,
    now: float,
) -> Plan:
    if _grants_exhausted(purpose, observed, record, settings):
        limit = settings.max_grants_per_phase
        fix = "see why pods lose their keys: securetrain audit grants"
        message = f"{limit} pods of the {purpose} phase have had keys and none finished."
        return _fail(Diagnosis("GrantsExhausted", message, fix), unless_results=purpose)
    if child.active_deadline != spec.active_deadline_seconds:
        which = plan.DeleteChild(child.name, child.uid)
        return Plan((plan.SetDeadline(which, spec.active_deadline_seconds),))
    pods, age = observed.pods_of(purpose), max(0.0, now - child.created)
    waiting = diagnose.waiting(pods, suspended=child.suspended, age=age)
    waiting = diagnose.with_classes(waiting, spec.pod) or _put_off(purpose, observed, record)
    secrets = secret_names(spec, settings)
    waiting = diagnose.with_logins(waiting, pods, secrets, now)
    soon = not pods and age <= diagnose.PODS_MISSING_SECONDS
    again = diagnose.PODS_MISSING_SECONDS + 1 if soon else settings.resync_seconds
    return Plan(waiting=waiting, again_after=min(again, settings.resync_seconds))


def _put_off(purpose: Purpose, observed: Observed, record: LaunchRecord) -> Diagnosis | None:
    """Why the gateway has no keys yet for a pod that runs."""
    uid, reason = observed.asking or ("", None)
    running = {p["metadata"]["uid"] for p in observed.pods_of(purpose) if diagnose.is_running(p)}
    granted = any(grant.pod_uid == uid for grant in record.grants)
    return reason if uid in running and not granted else None


def _grants_exhausted(
    purpose: Purpose, observed: Observed, record: LaunchRecord, settings: Settings
) -> bool:
    """True if no further pod will get keys and none that has them is still at work."""
    granted = {grant.pod_uid for grant in record.grants_of(purpose)}
    if len(granted) < settings.max_grants_per_phase or purpose in record.results:
        return False
    pods = {pod["metadata"]["uid"]: pod for pod in observed.pods_of(purpose)}
    at_work = (
        uid in pods and (pods[uid].get("status") or {}).get("phase") != "Failed" for uid in granted
    )
    return not any(at_work)


def _changed_spec(observed: Observed) -> Diagnosis:
    fix = "a run is immutable: apply a changed spec under a new name"
    message = observed.job.fault or "the spec is not the one that was accepted."
    return Diagnosis("SpecChanged", message, fix)


def _fail(diagnosis: Diagnosis, unless_results: Purpose | None = None) -> Plan:
    return Plan((plan.MarkFailed(diagnosis, unless_results),))


def _after_end(observed: Observed, record: LaunchRecord, settings: Settings, now: float) -> Plan:
    """Close the audit, clean up and sign; nothing is ever launched again."""
    if not transitions.is_closed(record):
        return Plan((plan.CloseAudit(),))
    spec = observed.job.spec
    ended = times.epoch(record.finished) if record.finished else now
    actions: list[plan.Action] = []
    looks: list[float] = []
    for child in observed.children.values():
        left = ended + _keep_seconds(child, observed, record, spec) - now
        if child.deleting:
            continue
        if left <= 0:
            actions.append(plan.DeleteChild(child.name, child.uid))
        else:
            looks.append(left)
    if record.head_signature is None and signer(observed.job, settings) is not None:
        actions.append(plan.SignHead())
        looks.append(SIGN_RETRY_SECONDS)
    elif spec is not None and spec.ttl_seconds_after_finished is not None:
        left = ended + spec.ttl_seconds_after_finished - now
        actions.extend([plan.DeleteJob()] if left <= 0 else [])
        looks.extend([left] if left > 0 else [])
    return Plan(tuple(actions), again_after=min(looks, default=None))


def _keep_seconds(
    child: Child, observed: Observed, record: LaunchRecord, spec: JobSpec | None
) -> float:
    """How long after the end a child Job is kept."""
    if child.uid not in {known.uid for known in record.children.values()}:
        return 0.0
    if not child.finished:
        return STOP_GRACE_SECONDS
    return float(spec.child_ttl_seconds_after_finished) if spec else 86_400.0
