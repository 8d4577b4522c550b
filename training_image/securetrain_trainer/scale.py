"""Mean and variance of a table's quantities, from the train split alone.

They are found in memory by the pod that may see the train split, and are weights of the model: they
are sealed with it. In the clear manifest they would tell about the data, and statistics of all
splits would tell the model about the test split.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt

from securetrain.sealed.dataset import Manifest
from securetrain.sealed.features import inputs

_LARGEST: Final = float(np.finfo(np.float32).max)
Floats = npt.NDArray[np.float64]


def moments(batches: Iterable[tuple[Any, Any]], width: int) -> tuple[Floats, Floats]:
    """Mean and variance of each column over all records, missing values aside.

    Args:
        batches: inputs, [n, width] with NaN where a value is missing, and labels.
        width: number of columns.

    Returns:
        Two arrays [width]; the variance of a column that never varies is 1, as is that of a column
        without a value, whose mean is 0.
    """
    count, mean, spread = np.zeros(width), np.zeros(width), np.zeros(width)
    for inputs_, _labels in batches:
        values = np.asarray(inputs_, dtype=np.float64)
        there = ~np.isnan(values)
        number = there.sum(axis=0)
        total = np.maximum(count + number, 1)
        of_batch = np.where(there, values, 0.0).sum(axis=0) / np.maximum(number, 1)
        spread += np.square(np.where(there, values - of_batch, 0.0)).sum(axis=0)
        spread += (of_batch - mean) ** 2 * count * number / total
        mean += (of_batch - mean) * number / total
        count = count + number
    variance = spread / np.maximum(count, 1)
    return mean, np.where(variance > 0, np.minimum(variance, _LARGEST), 1.0)


def quantities(manifest: Manifest) -> npt.NDArray[np.bool_]:
    """True for each number of a table's record that is a quantity and not a category's, [width]."""
    seen = inputs(manifest.features, manifest.task).values()
    return np.repeat(
        [feature.categories is None for feature in seen], [feature.width for feature in seen]
    )


def adapt(model: Any, manifest: Manifest, batches: Iterable[tuple[Any, Any]]) -> None:
    """Have a table's model scale its quantities by what `batches` hold; others stay as they are."""
    layer = next((each for each in model.layers if is_scale(each)), None)
    if layer is None:
        return
    scaled = quantities(manifest)
    mean, variance = moments(batches, len(scaled))
    layer.adapt_mean.assign(np.where(scaled, mean, 0.0).astype(np.float32))
    layer.adapt_variance.assign(np.where(scaled, variance, 1.0).astype(np.float32))
    layer.finalize_state()


def is_scale(layer: Any) -> bool:
    """True for the layer that `adapt` sets."""
    return isinstance(layer, keras.layers.Normalization)
