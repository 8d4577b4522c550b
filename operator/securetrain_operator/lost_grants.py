"""What became of the keys of a pod that gave up after its grant.

Its wrapping tokens are burnt, so that nobody else can spend them. One that is spent already may
have been spent by the pod or by a thief: that is for the audit to tell, and for people to know.
"""

from __future__ import annotations

import logging

from securetrain.errors import SecuretrainError
from securetrain_operator.core import transitions
from securetrain_operator.core.record import GrantRecord
from securetrain_operator.core.transitions import Fate
from securetrain_operator.ports import Clock, Events, GrantBoard, Object, Records, Vault

ADVICE = "treat the key as stolen until the audit log shows the pod's own address"

logger = logging.getLogger(__name__)


class LostGrants:
    """Looks into grants whose pods gave up, each once."""

    def __init__(
        self, records: Records, vault: Vault, events: Events, board: GrantBoard, clock: Clock
    ) -> None:
        self._records = records
        self._vault = vault
        self._events = events
        self._board = board
        self._clock = clock

    async def look_into(self, uid: str, grant: GrantRecord, job: Object) -> None:
        """Burn what is left of a grant, record what was found, and tell people."""
        fate = await self._fate(grant)
        change = transitions.grant_lost(grant.pod_uid, fate, self._clock.rfc3339())
        await self._records.update(uid, change)
        reason, message = _notice(grant, fate)
        await self._events.emit(job, reason=reason, message=message, warning=True)

    async def _fate(self, grant: GrantRecord) -> Fate:
        held = self._board.take(grant.pod_uid)
        if held is None:
            return Fate(unknown=grant.keys)
        try:
            unspent = await self._vault.burn(held.connection, held.tokens)
        except SecuretrainError as error:
            logger.warning("tokens of pod %s were left to run out: %s", grant.pod_uid, error)
            return Fate(unknown=grant.keys)
        burnt = tuple(t.grant.name for t, yes in zip(held.tokens, unspent, strict=True) if yes)
        gone = tuple(t.grant.name for t, yes in zip(held.tokens, unspent, strict=True) if not yes)
        if self._clock.now() >= held.until:  # Vault answers the same for a token that ran out
            return Fate(burnt=burnt, unknown=gone)
        return Fate(spent=gone, burnt=burnt)


def _notice(grant: GrantRecord, fate: Fate) -> tuple[str, str]:
    said = [
        f"{word}: {', '.join(names)}"
        for word, names in (
            ("spent", fate.spent),
            ("burnt unspent", fate.burnt),
            ("unknown", fate.unknown),
        )
        if names
    ]
    text = f"Pod {grant.pod_name} gave up after its grant; wrapping tokens {'; '.join(said)}."
    return ("GrantSpent", f"{text} Fix: {ADVICE}") if fate.spent else ("GrantLost", text)
