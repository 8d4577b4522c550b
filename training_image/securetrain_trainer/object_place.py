"""The output on object storage, which has no folders and no rename.

A model grows under `<prefix>.<job uid>.partial/`, is evaluated and signed there, and is then copied
by the server, object by object: `key.json` first, by a conditional write, which claims the prefix
for its job; `model.sig` and then `model.json` last. So a reader finds no model or a whole one, and
nobody replaces a model that is still being copied. See docs/decisions/0009.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from securetrain.errors import (
    IntegrityError,
    ManifestInvalid,
    ModelCorrupt,
    OutputExists,
    SecuretrainError,
    StorageMisconfigured,
)
from securetrain.sealed.model import (
    AUDIT_FILE,
    KEY_FILE,
    MAX_KEY_BYTES,
    MAX_MODEL_BYTES,
    MODEL_FILE,
    PAGE_FILE,
    REPORT_FILE,
    SIGNATURE_FILE,
    WEIGHTS_FILE,
    parse_key,
    parse_model,
)
from securetrain.sealed.pair import POLICY_FILE
from securetrain.storage.objects import ObjectStore, StoredObject

MODEL_OBJECTS: Final = (
    KEY_FILE,
    WEIGHTS_FILE,
    POLICY_FILE,
    REPORT_FILE,
    PAGE_FILE,
    AUDIT_FILE,
    SIGNATURE_FILE,
    MODEL_FILE,
)
"""All that a model's prefix holds, in the order in which it appears."""
MAX_OBJECTS: Final = 64
"""Names of a prefix that are looked at: many more than a model has."""
PROBE: Final = "probe"
"""Name in the staging prefix by which it is found out whether the server knows conditions."""

MAX_ROUNDS: Final = 16


@dataclass(frozen=True, slots=True)
class ObjectFolder:
    """A prefix as a model's folder."""

    store: ObjectStore
    path: str

    def read(self, name: str, limit: int, error: type[IntegrityError] = IntegrityError) -> bytes:
        """Content of an object of at most `limit` bytes; raises `error` if missing or too long."""
        return self.store.read(name, limit, error)

    def write(self, name: str, data: bytes) -> None:
        """Write an object."""
        self.store.write(name, data)

    def remove(self, name: str) -> None:
        """Remove an object; absence is fine."""
        self.store.remove(name)

    def names(self) -> frozenset[str]:
        """Names of the objects, at most `MAX_OBJECTS`."""
        return frozenset(self.objects())

    def objects(self) -> dict[str, StoredObject]:
        """The objects by name; the empty one that some tools make to show a folder is none."""
        found = self.store.list(limit=MAX_OBJECTS)
        return {item.name: item for item in found if item.name}


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """Where a model goes in a bucket."""

    parent: ObjectStore
    name: str
    job_uid: str

    @property
    def _staging(self) -> str:
        return f"{self.name}.{self.job_uid}.partial"

    @property
    def final(self) -> ObjectFolder:
        """The model's own prefix."""
        return ObjectFolder(self.parent.below(self.name), self.name)

    @property
    def staging(self) -> ObjectFolder:
        """The prefix under which it grows."""
        return ObjectFolder(self.parent.below(self._staging), self._staging)

    def check_free(self, *, replace: bool) -> None:
        """Raise OutputExists if the prefix is another's and may not be replaced."""
        names = self._foreign()
        if names and not replace:
            raise OutputExists(
                f"output.uri: the prefix {self.name!r} holds objects already.",
                fix="choose another name, or set output.ifExists: Replace",
            )
        if names and not (names <= set(MODEL_OBJECTS) and self._holds_model()):
            raise OutputExists(
                f"output.uri: {self.name!r} is not a model's prefix, and only such are replaced.",
                fix="choose another name, move away what is there, or wait for the job that is just"
                " publishing there",
            )

    def is_taken(self) -> bool:
        """True if the prefix holds anything that is not this job's own model."""
        return bool(self._foreign())

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """An empty staging prefix; if the block fails for good, nothing is left of it."""
        self._clear_staging()
        self._check_conditions()
        try:
            yield
        except SecuretrainError:
            with contextlib.suppress(SecuretrainError):
                self._clear_staging()
            raise

    @contextlib.contextmanager
    def staged(self) -> Iterator[ObjectFolder]:
        """The staging prefix."""
        yield self.staging

    @contextlib.contextmanager
    def stored(self, *, replace: bool) -> Iterator[tuple[ObjectFolder, bool]]:
        """The prefix that holds the job's model, and whether it is the final one already.

        In the staging prefix model.json is written last and removed first: with it, all is there.
        """
        published = not self.staging.store.has(MODEL_FILE)
        if not published:
            self.check_free(replace=replace)
        yield self.final if published else self.staging, published

    def publish(self, *, replace: bool) -> None:
        """Copy the model to its final prefix, and remove it from the staging one.

        An old pod of this job that was thought lost may do the same at any moment, before, after or
        between. So nothing here harms a model of this job: it is only ever copied onto itself.

        Raises:
            OutputExists: another job has the prefix, or took it meanwhile.
            ModelCorrupt: the staging prefix was changed meanwhile.
        """
        try:
            self._publish(replace=replace)
        except (ModelCorrupt, OutputExists):
            if not self._is_published():
                raise
        self._clear_staging()

    def _publish(self, *, replace: bool) -> None:
        before = self.final.objects().get(KEY_FILE)
        self.check_free(replace=replace)
        self._claim(before if replace else None)
        objects = self._whole()
        self._withdraw()
        if SIGNATURE_FILE not in objects:
            self.final.remove(SIGNATURE_FILE)
        copied = {name: self._copy(objects[name]) for name in MODEL_OBJECTS[1:] if name in objects}
        self._check_published(copied)

    def _is_published(self) -> bool:
        """True if another pod of this job has published the model: see `stored`."""
        return not self.staging.store.has(MODEL_FILE) and self._modelled() == self.job_uid

    def tidy(self) -> None:
        """Remove what is left in the staging prefix of a model that is published."""
        self._clear_staging()

    def _claim(self, before: StoredObject | None) -> None:
        """Write key.json where there is none, or in the place of that of the model that goes.

        Of two jobs one does it; from then on all here is this job's, for a later pod of it too.
        """
        key, final = self._own_key(), self.final
        won = final.store.exchange(before, key) if before else final.store.create(KEY_FILE, key)
        if not won and self._key_of(final) != key:
            raise self._lost()

    def _whole(self) -> dict[str, StoredObject]:
        """The objects of the staging prefix; a signature may be missing, but nothing else."""
        objects = self.staging.objects()
        for name in MODEL_OBJECTS:
            if name not in objects and name != SIGNATURE_FILE:
                raise ModelCorrupt(f"{name} was removed while the model was published")
        return objects

    def _withdraw(self) -> None:
        """Empty the model.json of another job's model, which is none from now on.

        Emptied rather than removed: that can be tied to the very object that was looked at, however
        late the server gets to it, and so never meets a model that was published meanwhile.
        """
        found = self.final.store.stat(MODEL_FILE)
        if found is not None and self._modelled() not in (None, self.job_uid):
            self.final.store.exchange(found, b"")

    def _copy(self, item: StoredObject) -> StoredObject:
        source = StoredObject(f"{self._staging}/{item.name}", item.size, item.etag)
        made = self.parent.copy(source, f"{self.name}/{item.name}")
        if made is None:
            raise ModelCorrupt(f"{item.name} was changed while the model was published")
        return made

    def _check_published(self, copied: dict[str, StoredObject]) -> None:
        """Another job that took the prefix meanwhile would leave a mixture, which is told."""
        if self._key_of(self.final) != self._own_key():
            raise self._lost()
        found = {name: item.etag for name, item in self.final.objects().items()}
        found.pop(KEY_FILE, None)
        wanted = {name: item.etag for name, item in copied.items()}
        if odd := sorted(dict(found.items() ^ wanted.items())):
            raise OutputExists(
                f"output.uri: the model is at {self.name!r}, but somebody else put, changed or"
                f" removed {odd[0]!r} there meanwhile.",
                fix="find out who writes to the output's bucket, and run the job again under a new"
                " name",
            )

    def _own_key(self) -> bytes:
        return self.staging.read(KEY_FILE, MAX_KEY_BYTES, ModelCorrupt)

    def _lost(self) -> OutputExists:
        return OutputExists(
            f"output.uri: another job was given the prefix {self.name!r} at the same time.",
            fix="give each job an output of its own, and run this one again under a new name",
        )

    def _foreign(self) -> set[str]:
        """Names at the final prefix, if it is not this job's own."""
        final = self.final
        names = set(final.names())
        if KEY_FILE in names and self._owner(final) == self.job_uid:
            return set()
        return names

    def _owner(self, folder: ObjectFolder) -> str:
        try:
            return parse_key(folder.read(KEY_FILE, MAX_KEY_BYTES, ManifestInvalid)).job_uid
        except ManifestInvalid:
            return ""

    @staticmethod
    def _key_of(folder: ObjectFolder) -> bytes:
        try:
            return folder.read(KEY_FILE, MAX_KEY_BYTES)
        except IntegrityError:
            return b""

    def _holds_model(self) -> bool:
        """True if model.json and key.json are of one job: else one is just being replaced."""
        return self._modelled() == self._owner(self.final)

    def _modelled(self) -> str | None:
        """UID of the job of the final model.json; None if there is no valid one."""
        try:
            return parse_model(self.final.read(MODEL_FILE, MAX_MODEL_BYTES)).job.uid
        except IntegrityError:
            return None

    def _check_conditions(self) -> None:
        """Raise StorageMisconfigured if the server writes whatever the condition: claims need it.

        Raises it before anything is trained, and leaves nothing behind.
        """
        store = self.staging.store
        store.create(PROBE, b"")
        ignored = store.create(PROBE, b"") or store.exchange(StoredObject(PROBE, 0, '"0"'), b"")
        store.remove(PROBE)
        if ignored:
            raise StorageMisconfigured(
                f"output.uri: the server of {self.name!r} ignores the conditions of a write"
                " (If-None-Match, If-Match), so that two jobs could overwrite each other.",
                fix="use a server that honours them, or put the model on a claim",
            )

    def _clear_staging(self) -> None:
        """Remove all of the staging prefix, model.json first."""
        folder = self.staging
        for _ in range(MAX_ROUNDS):
            names = folder.names()
            if not names:
                return
            for name in sorted(names, key=lambda name: name != MODEL_FILE):
                folder.remove(name)
        raise IntegrityError(
            f"the prefix {folder.path!r} does not become empty: somebody else writes there",
            fix="find out who writes to the output's bucket, and run the job again",
        )
