"""Who may speak here at all: steps 1 to 3 of every call of every kind.

A token leads to a pod, the pod to a launch record, and the record says what the pod must be. The
pod's labels only say where to look. A refusal here touches nothing: whoever is not our pod cannot
harm a job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from securetrain.api.gateway import RunSpec
from securetrain.api.names import CONTAINER, JOB_UID_LABEL, RUN_SPEC_ENV, Purpose, child_job
from securetrain.errors import NotOurPod
from securetrain_operator.core.record import ChildRecord, LaunchRecord
from securetrain_operator.errors import NotReady
from securetrain_operator.gateway.attest import attest
from securetrain_operator.gateway.caller import Caller, bearer_token, check_peer, identify
from securetrain_operator.kinds import PODS
from securetrain_operator.ports import Clock, Cluster, Object, Records
from securetrain_operator.settings import Settings

UID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
SHOWN_MISMATCHES: Final = 12


@dataclass(frozen=True, slots=True)
class Attested:
    """A pod that is exactly the one that was launched."""

    caller: Caller
    pod: Object
    record: LaunchRecord
    purpose: Purpose
    child: ChildRecord
    run: RunSpec
    """What the pod was told, from its recorded template."""

    @property
    def uid(self) -> str:
        """UID of the SecureTrainingJob."""
        return self.record.job.uid

    @property
    def image(self) -> str:
        """Image reference of the one container."""
        return str(_container(self.child.template)["image"])

    @property
    def image_id(self) -> str:
        """What kubelet reports to run; for the audit only, it can lag."""
        statuses = self.pod["status"].get("containerStatuses") or ()
        return next((str(s.get("imageID", "")) for s in statuses if s["name"] == CONTAINER), "")

    @property
    def address(self) -> str:
        """The pod's first address, or an empty string if it is not reported."""
        entries = self.pod["status"].get("podIPs") or ()
        return next((str(entry["ip"]) for entry in entries), "")


class Gatekeeper:
    """Admits a call if it comes from a pod that the operator launched."""

    def __init__(
        self, cluster: Cluster, records: Records, settings: Settings, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._records = records
        self._settings = settings
        self._clock = clock

    async def admit(
        self, authorization: str | None, peer: str | None, *, ended_too: bool = False
    ) -> Attested:
        """The attested pod behind a call.

        Args:
            authorization: the Authorization header.
            peer: address that the call came from.
            ended_too: admit pods of a job that has ended, to answer again what was answered.

        Raises:
            BadToken: the token is not ours or not valid.
            NotOurPod: the caller is not a pod that was launched.
            NotReady: what must be compared is not recorded or reported yet.
        """
        token = bearer_token(authorization)
        caller = await identify(self._cluster, token, self._settings.audience, self._clock.now())
        pod = await self._pod(caller, peer)
        record = await self._record(caller, pod)
        if record.terminal and not ended_too:
            raise NotOurPod(f"{caller}: its job has ended")
        purpose, child = _child_of(pod, record, caller)
        _require_reported(pod)
        mismatches = attest(pod, child, self._settings)
        if mismatches:
            shown = "; ".join(mismatches[:SHOWN_MISMATCHES])
            raise NotOurPod(f"{caller}: {len(mismatches)} mismatches: {shown}")
        run = run_spec(child.template)
        if run.purpose != purpose or run.job != record.job:
            raise NotOurPod(f"{caller}: the recorded template is of another run")
        return Attested(caller, pod, record, purpose, child, run)

    async def _pod(self, caller: Caller, peer: str | None) -> Object:
        pod = await self._cluster.read(PODS, caller.namespace, caller.pod_name)
        if pod is None or pod["metadata"].get("uid") != caller.pod_uid:
            raise NotOurPod(f"{caller}: it does not exist any more")
        if pod.get("spec", {}).get("nodeName") != caller.node:
            raise NotOurPod(f"{caller}: it is not on the node that its token names")
        if not self._settings.peer_address_hidden:
            check_peer(peer, pod)
        return pod

    async def _record(self, caller: Caller, pod: Object) -> LaunchRecord:
        uid = (pod["metadata"].get("labels") or {}).get(JOB_UID_LABEL, "")
        if not UID.fullmatch(uid):
            raise NotOurPod(f"{caller}: it carries no job's label")
        record = await self._records.get(uid)
        if record is None:
            raise NotReady("there is no launch record of the pod's job yet")
        if record.job.namespace != caller.namespace:
            raise NotOurPod(f"{caller}: its label names a job of another namespace")
        return record


def run_spec(template: Mapping[str, Any]) -> RunSpec:
    """What a recorded template tells the pod; raises NotOurPod if it tells nothing."""
    entries = _container(template).get("env") or ()
    text = next((e.get("value", "") for e in entries if e.get("name") == RUN_SPEC_ENV), "")
    try:
        return RunSpec.model_validate_json(text)
    except ValidationError:
        raise NotOurPod("the recorded template holds no run description") from None


def _container(template: Mapping[str, Any]) -> Mapping[str, Any]:
    containers = template.get("spec", {}).get("containers") or ()
    found = [container for container in containers if container.get("name") == CONTAINER]
    if len(containers) != 1 or not found:
        raise NotOurPod("the recorded template is not of a job pod")
    container: Mapping[str, Any] = found[0]
    return container


def _child_of(pod: Object, record: LaunchRecord, caller: Caller) -> tuple[Purpose, ChildRecord]:
    """The recorded Job that controls a pod; NotReady while its UID is not recorded."""
    owners = pod["metadata"].get("ownerReferences") or ()
    controllers = [owner for owner in owners if owner.get("controller") is True]
    named = {child_job(record.job.name, purpose): purpose for purpose in Purpose}
    if len(controllers) != 1 or controllers[0].get("name") not in named:
        raise NotOurPod(f"{caller}: no Job of ours controls it")
    purpose = named[controllers[0]["name"]]
    child = record.children.get(purpose)
    if child is None or child.uid != controllers[0].get("uid"):
        raise NotReady("the pod's Job is not recorded yet")
    return purpose, child


def _require_reported(pod: Object) -> None:
    if not pod.get("status", {}).get("containerStatuses"):
        raise NotReady("the pod's state is not reported yet")
