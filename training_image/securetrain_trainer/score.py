"""Evaluate stored weights on the test split: a model rebuilt from the job's own spec."""

from __future__ import annotations

from typing import Final

from securetrain.api.names import Split
from securetrain.api.types import ModelSpec
from securetrain.sealed.dataset import SealedDataset
from securetrain.secret import Secret
from securetrain_trainer.evaluate import Evaluation, measure, predict
from securetrain_trainer.models import build, parse_weights, set_weights
from securetrain_trainer.phase import shape_of
from securetrain_trainer.pipeline import Batches
from securetrain_trainer.shards import SealedSplit

BATCH: Final = 256


def score(spec: ModelSpec, weights: bytes, dataset: SealedDataset, dek: Secret) -> Evaluation:
    """Measure a model on the test split.

    Args:
        spec: architecture and parameters, from the job, never from the stored model.
        weights: plaintext safetensors.
        dataset: the dataset's description.
        dek: key of the test split.

    Raises:
        ModelCorrupt: the weights do not fit the architecture.
        ShardCorrupt: names the shard.
    """
    manifest = dataset.manifest
    classes = manifest.task.classes
    model = build(spec, shape_of(manifest), classes)
    set_weights(model, parse_weights(weights, model))
    split = SealedSplit(dataset.folder, manifest.id, Split.TEST, dataset.indexes[Split.TEST], dek)
    with Batches(split, manifest, BATCH) as batches:
        return measure(*predict(model, batches.in_order()), classes)
