"""What both phases do before a key is asked for: all that can be refused is refused here.

Free of TensorFlow, so that a wrong job fails within a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import MAX_POLICY_BYTES, FileDigest, RunSpec
from securetrain.errors import ManifestInvalid, ModelCorrupt
from securetrain.sealed.dataset import POLICY_FILE, Manifest, SealedDataset, load_dataset
from securetrain.sealed.features import input_shape
from securetrain.sealed.files import SealedFolder
from securetrain.sealed.model import (
    AUDIT_FILE,
    KEY_FILE,
    MAX_KEY_BYTES,
    MAX_MODEL_BYTES,
    MAX_WEIGHTS_BYTES,
    MODEL_FILE,
    PAGE_FILE,
    REPORT_FILE,
    SIGNATURE_FILE,
    WEIGHTS_FILE,
    ModelManifest,
    parse_model,
)
from securetrain_trainer.evaluate import check_gates_known
from securetrain_trainer.parameters import check_fits
from securetrain_trainer.ports import ModelFolder
from securetrain_trainer.store import temporary_name

TRAINED: Final = frozenset({MODEL_FILE, WEIGHTS_FILE, POLICY_FILE, KEY_FILE})
ADDED: Final = frozenset({REPORT_FILE, PAGE_FILE, AUDIT_FILE, SIGNATURE_FILE})
_LIMITS: Final = {
    MODEL_FILE: MAX_MODEL_BYTES,
    WEIGHTS_FILE: MAX_WEIGHTS_BYTES,
    POLICY_FILE: MAX_POLICY_BYTES,
    KEY_FILE: MAX_KEY_BYTES,
}
"""A training pod's word does not fill the certify pod's memory."""
_LEFT: Final = ADDED | frozenset(map(temporary_name, ADDED))


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as the train phase left it, each file read once and its digest compared."""

    manifest: ModelManifest
    sealed_weights: bytes
    digests: tuple[FileDigest, ...]


def open_dataset(run: RunSpec, folder: SealedFolder) -> SealedDataset:
    """The dataset's description, held against the job's pin and its spec.

    Raises:
        ManifestInvalid: it is not what it should be, or not the one that the job pins.
        InvalidInput: the job's gates or model do not fit it.
    """
    dataset = load_dataset(folder)
    found = f"sha256:{dataset.manifest_sha256}"
    if run.dataset_digest is not None and run.dataset_digest != found:
        raise ManifestInvalid(
            f"datasets[].digest: the job pins {run.dataset_digest}, the folder holds {found}.",
            fix="restore the dataset, or make a new job with the digest that is meant",
        )
    check_gates_known(run.gates)
    check_fits(run.model, shape_of(dataset.manifest), dataset.manifest.task.classes)
    return dataset


def shape_of(manifest: Manifest) -> tuple[int, ...]:
    """Shape of a model's input without the batch: of an image, or of a table's record."""
    return input_shape(manifest.features, manifest.task)


def read_model(folder: ModelFolder, run: RunSpec, dataset: SealedDataset) -> StoredModel:
    """Read the train phase's files and compare them with what it reported.

    What an earlier certify pod left stays for now: it may vouch for a model that is published.

    Raises:
        ModelCorrupt: a file is missing, changed, a link or one too many, or the model is another
            job's or another dataset's.
        ManifestInvalid: model.json is malformed.
    """
    told = {digest.path: digest for digest in run.artefacts}
    names = folder.names() - _LEFT
    if told.keys() != TRAINED or names != TRAINED:
        odd = sorted((told.keys() | names) ^ TRAINED) or sorted(TRAINED - names)
        raise ModelCorrupt(f"the model's folder lacks {odd[0]!r:.80}, or has it and should not")
    contents = {path: _read(folder, told[path]) for path in sorted(TRAINED)}
    manifest = parse_model(contents[MODEL_FILE])
    _check_manifest(manifest, told[WEIGHTS_FILE], run, dataset)
    if contents[POLICY_FILE] != dataset.policy_bytes:
        raise ModelCorrupt("policy.json of the model is not the dataset's")
    return StoredModel(manifest, contents[WEIGHTS_FILE], tuple(told[p] for p in sorted(told)))


def clear_added(folder: ModelFolder) -> None:
    """Remove what an earlier certify pod left, its signature first."""
    for name in (SIGNATURE_FILE, *sorted(_LEFT - {SIGNATURE_FILE})):
        folder.remove(name)


def digest_of(path: str, data: bytes) -> FileDigest:
    """Name, digest and size of one file."""
    return FileDigest(path=path, sha256=sha256_hex(data), bytes=len(data))


def _read(folder: ModelFolder, told: FileDigest) -> bytes:
    data = folder.read(told.path, min(told.bytes, _LIMITS[told.path]), ModelCorrupt)
    if digest_of(told.path, data) != told:
        raise ModelCorrupt(f"{told.path} is not the file that the training pod reported")
    return data


def _check_manifest(
    manifest: ModelManifest, weights: FileDigest, run: RunSpec, dataset: SealedDataset
) -> None:
    """A model.json was written by a pod that is not trusted: it must repeat what is known."""
    expected = {
        "id": (manifest.id, run.job.uid),
        "job.uid": (manifest.job.uid, run.job.uid),
        "job.name": (manifest.job.name, run.job.name),
        "job.namespace": (manifest.job.namespace, run.job.namespace),
        "job.specSha256": (manifest.job.spec_sha256, run.spec_sha256),
        "model": (manifest.model, run.model),
        "features": (manifest.features, dataset.manifest.features),
        "task": (manifest.task, dataset.manifest.task),
        "dataset.name": (manifest.dataset.name, run.dataset_name),
        "dataset.id": (manifest.dataset.id, dataset.manifest.id),
        "dataset.sha256": (manifest.dataset.sha256, dataset.manifest_sha256),
        "dataset.policySha256": (manifest.dataset.policy_sha256, dataset.policy_sha256),
        "weights.path": (manifest.weights.path, WEIGHTS_FILE),
        "weights.sha256": (manifest.weights.sha256, weights.sha256),
        "weights.bytes": (manifest.weights.bytes, weights.bytes),
        "trainImage": (manifest.train_image, run.image),
    }
    for field, (said, known) in expected.items():
        if said != known:
            raise ModelCorrupt(f"model.json: {field} is not what this job and its dataset say")
