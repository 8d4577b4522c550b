"""What an upload may replace of a dataset or model that can be seen: what a re-wrap makes, alone.

Those are policy and keys of a dataset, and the key of a model; never by an older one. Shards and
weights are mended, since the manifest that lies there names their digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from securetrain.api.gateway import WrappedDek
from securetrain.api.names import Split
from securetrain.errors import IntegrityError, InvalidInput, ManifestInvalid, OutputExists
from securetrain.sealed import dataset, files, model, pair
from securetrain.sealed.rewrap import key_version
from securetrain.storage.depot import Depot, SealedFile
from securetrain.storage.parcel import MODEL_LIMITS, Pair, Parcel


def check(parcel: Parcel, depot: Depot) -> None:
    """Raise unless sending a parcel again replaces only what may be replaced.

    Raises:
        OutputExists: another file of the model there is not the one that is here.
        InvalidInput: the keys here are older than those there.
    """
    if parcel.pair:
        _refuse_older_keys(parcel.pair, depot)
        return
    for file in parcel.files:
        if file.name not in MODEL_LIMITS or not depot.has(file.name) or _same(file, depot):
            continue
        if file.name != model.KEY_FILE:
            raise _differs(file.name, depot)
        _check_key(parcel.folder, depot)


def _same(file: SealedFile, depot: Depot) -> bool:
    try:
        found = files.digest(depot, file.name, MODEL_LIMITS[file.name])
    except IntegrityError:
        return False  # too long, or gone since
    return found == (file.size, file.sha256)


def _differs(name: str, depot: Depot) -> OutputExists:
    return OutputExists(
        f"DEST: {name} at {depot.where} is not the one that is here.",
        fix=f"choose another place: of a model that is there only {model.KEY_FILE} is replaced",
    )


def _check_key(folder: Path, depot: Depot) -> None:
    """Raise unless key.json here wraps the key of the same model, and is not the older one."""
    ours = model.parse_key(files.read(folder, model.KEY_FILE, model.MAX_KEY_BYTES))
    try:
        theirs = model.parse_key(files.read(depot, model.KEY_FILE, model.MAX_KEY_BYTES))
    except ManifestInvalid:
        return  # nobody can use it either
    if (ours.job_uid, ours.policy_sha256) != (theirs.job_uid, theirs.policy_sha256):
        raise _differs(model.KEY_FILE, depot)
    _refuse_older(ours, theirs, depot, model.KEY_FILE, model.KEY_FILE)


def _refuse_older_keys(ours: Pair, depot: Depot) -> None:
    theirs = _keys_there(depot)
    if theirs is not None:
        both = f"{pair.POLICY_FILE} and {pair.KEYS_FILE}"
        key = _latest(dataset.parse_keys(ours.keys))
        _refuse_older(key, _latest(theirs), depot, pair.KEYS_FILE, both)


def _refuse_older(
    ours: WrappedDek | model.KeyFile,
    theirs: WrappedDek | model.KeyFile,
    depot: Depot,
    name: str,
    replaced: str,
) -> None:
    """Raise InvalidInput rather than bring back what a re-wrap has replaced, and perhaps revoked.

    Each re-wrap makes a version of its own, so of one KEK the higher one is the later.
    """
    here, there = key_version(ours), key_version(theirs)
    if (ours.mount, ours.kek) == (theirs.mount, theirs.kek) and here < there:
        raise InvalidInput(
            "FOLDER",
            f"{name} of version {here}",
            f"is older than that at {depot.where}, which is of version {there}",
            fix=f"take {replaced} from there, or re-wrap here first",
        )


def _keys_there(depot: Depot) -> Mapping[Split, WrappedDek] | None:
    """The keys that count there; None if there are none that can be read."""
    try:
        if depot.has(pair.PENDING_FILE):
            data = files.read(depot, pair.PENDING_FILE, pair.MAX_PENDING_BYTES)
            return dataset.parse_keys(pair.parse_pending(data).contents[1])
        return dataset.parse_keys(files.read(depot, pair.KEYS_FILE, pair.MAX_KEYS_BYTES))
    except ManifestInvalid:
        return None  # nobody can use them either


def _latest(keys: Mapping[Split, WrappedDek]) -> WrappedDek:
    return max(keys.values(), key=key_version)
