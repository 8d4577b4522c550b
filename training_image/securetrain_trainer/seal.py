"""Write the trained model, sealed, into its staging folder; model.json comes last."""

from __future__ import annotations

from datetime import UTC, datetime

from securetrain.api.digest import sha256_hex
from securetrain.api.gateway import FileDigest, RunSpec
from securetrain.api.names import MODEL_KEY_NAME, model_file_associated_data
from securetrain.api.types import Metric
from securetrain.sealed.dataset import POLICY_FILE, SealedDataset, key_check
from securetrain.sealed.model import (
    KEY_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    KeyFile,
    ModelDataset,
    ModelJob,
    ModelManifest,
    SealedWeights,
    dump_key,
    dump_model,
)
from securetrain.sealed.streaming import encrypt_bytes
from securetrain_trainer.phase import digest_of
from securetrain_trainer.ports import Keys, ModelFolder


def seal_model(
    folder: ModelFolder,
    run: RunSpec,
    dataset: SealedDataset,
    keys: Keys,
    weights: bytes,
    metrics: tuple[Metric, ...],
) -> tuple[FileDigest, ...]:
    """Seal a model.

    Args:
        folder: empty staging folder.
        run: the run.
        dataset: what the model was trained with.
        keys: the model's DEK, and its wrapped form.
        weights: plaintext safetensors.
        metrics: what training measured on the validation split.

    Returns:
        Digests of all files written.
    """
    sealed = encrypt_bytes(
        weights, keys.model, model_file_associated_data(run.job.uid, WEIGHTS_FILE)
    )
    described = digest_of(WEIGHTS_FILE, sealed)
    stored = SealedWeights(
        path=described.path,
        bytes=described.bytes,
        sha256=described.sha256,
        plaintext_sha256=sha256_hex(weights),
    )
    written = {
        WEIGHTS_FILE: sealed,
        POLICY_FILE: dataset.policy_bytes,
        KEY_FILE: dump_key(_key_file(run, dataset, keys)),
        MODEL_FILE: dump_model(_manifest(run, dataset, keys, stored, metrics)),
    }
    for name, data in written.items():
        folder.write(name, data)
    return tuple(digest_of(name, data) for name, data in sorted(written.items()))


def _manifest(
    run: RunSpec,
    dataset: SealedDataset,
    keys: Keys,
    weights: SealedWeights,
    metrics: tuple[Metric, ...],
) -> ModelManifest:
    return ModelManifest(
        format="securetrain/model/v1",
        id=run.job.uid,
        job=ModelJob(
            namespace=run.job.namespace,
            name=run.job.name,
            uid=run.job.uid,
            spec_sha256=run.spec_sha256,
        ),
        model=run.model,
        features=dataset.manifest.features,
        task=dataset.manifest.task,
        dataset=ModelDataset(
            name=run.dataset_name,
            id=dataset.manifest.id,
            sha256=dataset.manifest_sha256,
            policy_sha256=dataset.policy_sha256,
        ),
        key_check=key_check(keys.model, run.job.uid, MODEL_KEY_NAME),
        weights=weights,
        train_image=run.image,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        metrics=metrics,
    )


def _key_file(run: RunSpec, dataset: SealedDataset, keys: Keys) -> KeyFile:
    return KeyFile(
        format="securetrain/model-key/v1",
        mount=run.transit_mount,
        kek=run.model_kek,
        wrapped=keys.wrapped_model_key,
        job_uid=run.job.uid,
        policy_sha256=dataset.policy_sha256,
    )
