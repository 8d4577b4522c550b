"""Sends a sealed folder elsewhere, so that it is there whole or not to be seen.

    upload.json claims the place · shards, indexes · policy, keys · dataset.json · upload.json goes

What is there already, with the right size and digest, is not sent again: the same upload once more
goes on where the last one stopped. The manifest is written last and never replaced, and a place
that holds anything else is left as it is. Of what is there, only what a re-wrap makes is replaced,
see `standing`: key.json of a model; policy.json and keys.json of a dataset, in the way of
`sealed.pair`: rewrap.json first, which counts until both are there, so that whoever reads in
between has the old two or the new two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import Sha256
from securetrain.api.types import Model
from securetrain.errors import OutputExists
from securetrain.sealed import dataset, files, model, pair, parallel, strict_json
from securetrain.storage import parcel as parcels
from securetrain.storage import standing
from securetrain.storage.depot import Depot, SealedFile
from securetrain.storage.parcel import UPLOAD_FILE, Pair, Parcel

STRAY: Final = 64
"""Files more than our own that are looked for at the target."""
MAX_CLAIM_BYTES: Final = 1 << 12
_MANIFESTS: Final = {
    dataset.DATASET_FILE: dataset.MAX_MANIFEST_BYTES,
    model.MODEL_FILE: model.MAX_MODEL_BYTES,
}


class Claim(Model):
    """upload.json: whose upload this place is taken for."""

    format: Literal["securetrain/upload/v1"]
    manifest_sha256: Sha256


@dataclass(frozen=True, slots=True)
class Sent:
    """What an upload did."""

    files: int
    """Files that were sent, policy, keys and manifest included."""
    bytes: int
    kept: int
    """Files that were there already and right."""


def require_free(depot: Depot, fix: str) -> None:
    """Raise OutputExists if there is anything at the target."""
    for name in depot.list(1):
        raise OutputExists(f"DEST: {depot.where} holds {name} already.", fix=fix)


def upload(
    parcel: Parcel, depot: Depot, on_progress: Callable[[int, int], None] = lambda done, sent: None
) -> Sent:
    """Send a sealed folder.

    Args:
        parcel: what is sent.
        depot: where it goes.
        on_progress: told the bytes that are done, and those of them that were sent.

    Raises:
        OutputExists: the place holds something else, or another upload has begun there; or a file
            of the model there is not the one here.
        ShardCorrupt: a file here is not the one that was sealed.
        InvalidInput: the keys here are older than those there.
        SecuretrainError: what the depot raises; what has been sent stays for the next time.
    """
    there = depot.list(len(parcel.names) + STRAY)
    visible = _claimed(parcel, depot, there)
    if visible:
        standing.check(parcel, depot)
    sending = _Sending(parcel, depot, there, on_progress)
    for _ in parallel.in_order(sending.settle, parcel.files, depot.workers):
        pass
    if parcel.pair:
        sending.replace_pair(parcel.pair, visible)
    if not visible:
        _publish(parcel, depot)
        sending.count(len(parcel.manifest_bytes))
    depot.remove(UPLOAD_FILE)
    return sending.sent


def _claimed(parcel: Parcel, depot: Depot, there: Mapping[str, int]) -> bool:
    """Take the place for this parcel; True if it lies there, visible, already."""
    for name, limit in _MANIFESTS.items():
        if name in there:
            if name == parcel.manifest and files.read(depot, name, limit) == parcel.manifest_bytes:
                return True
            raise _taken(depot, f"another {name.removesuffix('.json')}")
    claim = Claim(format="securetrain/upload/v1", manifest_sha256=sha256_hex(parcel.manifest_bytes))
    if UPLOAD_FILE not in there:
        if stray := sorted(there):
            raise _taken(depot, f"{stray[0]}, which is no part of this upload")
        depot.create(UPLOAD_FILE, strict_json.dump(claim))
    data = files.read(
        depot, UPLOAD_FILE, MAX_CLAIM_BYTES
    )  # also if it was ours: another may be quicker
    if strict_json.parse(Claim, data, name=UPLOAD_FILE, limit=MAX_CLAIM_BYTES) != claim:
        raise OutputExists(
            f"DEST: at {depot.where} the upload of another {parcel.kind} has begun.",
            fix="end that one, or remove what it left, or choose another place",
        )
    return False


def _publish(parcel: Parcel, depot: Depot) -> None:
    depot.create(parcel.manifest, parcel.manifest_bytes)
    if files.read(depot, parcel.manifest, _MANIFESTS[parcel.manifest]) != parcel.manifest_bytes:
        raise _taken(depot, f"another {parcel.kind}")


def _taken(depot: Depot, what: str) -> OutputExists:
    return OutputExists(
        f"DEST: {depot.where} holds {what}.",
        fix="choose another place, or remove what is there; nothing is ever overwritten",
    )


class _Sending:
    """One upload: what is there, what was sent, how far it has come."""

    def __init__(
        self,
        parcel: Parcel,
        depot: Depot,
        there: Mapping[str, int],
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._parcel, self._depot, self._there = parcel, depot, there
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._done = self._sent = 0
        self.sent = Sent(0, 0, 0)

    def settle(self, file: SealedFile) -> None:
        """Have a file there, by sending it unless it is."""
        path = self._parcel.folder / file.name
        if self._there.get(file.name) == file.size and self._depot.holds(file, path):
            self._advance(file.size, sent=False)
            self.count(0, kept=1)
            return
        parcels.check(self._parcel.folder, file)
        self._depot.send(file, path, self._advance)
        self.count(file.size)

    def replace_pair(self, wanted: Pair, visible: bool) -> None:
        """Have policy and keys there; see the module's description for the order."""
        depot, there = self._depot, self._there
        pending = pair.PENDING_FILE in there
        policy = _same(depot, there, pair.POLICY_FILE, wanted.policy) and not pending
        keys = _same(depot, there, pair.KEYS_FILE, wanted.keys) and not pending
        tied = visible and not policy
        if tied:
            depot.write(pair.PENDING_FILE, pair.dump_pending(wanted.policy, wanted.keys))
        for name, data, right in (
            (pair.POLICY_FILE, wanted.policy, policy),
            (pair.KEYS_FILE, wanted.keys, keys),
        ):
            if right:
                self.count(0, kept=1)
            else:
                depot.write(name, data)
                self.count(len(data))
        if tied or pending:
            depot.remove(pair.PENDING_FILE)

    def count(self, size: int, kept: int = 0) -> None:
        """Count a file that was sent, or kept."""
        with self._lock:
            now = self.sent
            self.sent = Sent(now.files + 1 - kept, now.bytes + size, now.kept + kept)

    def _advance(self, size: int, *, sent: bool = True) -> None:
        with self._lock:
            self._done += size
            self._sent += size if sent else 0
            self._on_progress(self._done, self._sent)


def _same(depot: Depot, there: Mapping[str, int], name: str, data: bytes) -> bool:
    return there.get(name) == len(data) and files.read(depot, name, len(data)) == data
