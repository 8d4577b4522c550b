"""The rules of a grant and the changes of the launch record that it makes. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from securetrain.api.gateway import MAX_POLICY_BYTES, GrantRequest
from securetrain.api.names import (
    MODEL_KEY_NAME,
    SPLITS_OF,
    Purpose,
    correlation_id,
    dek_associated_data,
    model_dek_context,
)
from securetrain.audit import chain
from securetrain.errors import AlreadyGranted, InvalidInput, ManifestInvalid, NotOurPod
from securetrain_operator.core.record import (
    Change,
    GrantRecord,
    LaunchRecord,
    ModelKey,
    PinnedDataset,
)
from securetrain_operator.core.times import epoch
from securetrain_operator.errors import DatasetChanged, GrantsExhausted, TooManyRequests
from securetrain_operator.gateway.context import Resolved
from securetrain_operator.gateway.gatekeeper import Attested
from securetrain_operator.ports import WrappedToken, WrapRequest

DATASET_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
MAX_RECORDS: Final = 2**53 - 1
BUILTIN: Final = "builtin@"
WITHDRAWN: Final = "grant.withdrawn"
FREE_WITHDRAWALS: Final = 3
PAUSE_SECONDS: Final = 10
MAX_PAUSE_SECONDS: Final = 600


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


def check_pace(record: LaunchRecord, now: float) -> None:
    """A Vault that goes on refusing is asked ever less often: each time costs the record two lines.

    Raises:
        TooManyRequests: the last refusal is too recent.
    """
    lines = (chain.parse_line(line) for line in reversed(record.audit))
    times = [line.time for line in lines if line.type == chain.TYPE_PREFIX + WITHDRAWN]
    if len(times) < FREE_WITHDRAWALS:
        return
    pause = min(PAUSE_SECONDS * 2 ** min(len(times) - FREE_WITHDRAWALS, 10), MAX_PAUSE_SECONDS)
    if now < epoch(times[0]) + pause:
        raise TooManyRequests(
            f"Vault has refused this job's keys {len(times)} times and is asked every {pause} s",
            fix="mend what the job's status names",
        )


def check_purpose(pod: Attested, request: GrantRequest) -> None:
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


def check_manifest(request: GrantRequest) -> None:
    """What the pod says of its dataset can be judged at all; raises ManifestInvalid."""
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
    if len(record.grants_of(pod.purpose)) >= limit:
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
        given = grant.model_copy(update={"attempt": record.attempt})
        return record.with_changes(
            dataset=record.dataset or pinned, model_key=model_key, grants=(*record.grants, given)
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
        return record.with_changes(grants=others).appended(WITHDRAWN, time, data)

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


def _digests(asked: Asked) -> tuple[str, str]:
    return f"sha256:{asked.request.dataset_sha256}", f"sha256:{asked.policy_sha256}"


def _kek_version(wrapped: str) -> int:
    return int(wrapped.split(":")[1].removeprefix("v"))
