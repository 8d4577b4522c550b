"""Records of raw pixels, in which every value stands at a place that is known beforehand.

Names, lengths and their order are the same in all records that `seal` writes of an image of one
shape and a label below 128. Such records are not parsed but cut. A record is of the layout if all
of its bytes but the values are: then the values are what parsing would give, whoever wrote it.

Tables are parsed: to cut many small values is faster for some of them and slower for others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tensorflow as tf

from securetrain.sealed.examples import encode_entry, join_entries
from securetrain.sealed.features import Feature

_FIXED: Final = 0xFF
_GOES_ON: Final = 0x80
"""The bit that says that an integer has another byte."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A record whose values are zero, and where the values stand."""

    template: bytes
    pixels: slice
    numbers: Mapping[str, int]
    """Places of the integers, a byte each."""
    image: str

    def cut(self, serialized: Any, otherwise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """The values of a batch of records by the name of their feature.

        Args:
            serialized: the records, string [n].
            otherwise: parses the batch if one of its records is not of this layout.

        Returns:
            uint8 [n, values] of the pixels, int64 [n] of the others.
        """
        size = len(self.template)
        # Records of another length are cut or filled up here, and told by their length below.
        raw = tf.io.decode_raw(serialized, tf.uint8, fixed_length=size)
        as_long = tf.reduce_all(tf.strings.length(serialized) == size)
        fits = as_long & tf.reduce_all(self._same(raw))
        cut: dict[str, Any] = tf.cond(
            fits, lambda: self._values(raw), lambda: otherwise(serialized)
        )
        return cut

    def _same(self, raw: Any) -> Any:
        """Bool [n, …]: which bytes besides the values are the template's."""
        mask = np.full(len(self.template), _FIXED, np.uint8)
        mask[list(self.numbers.values())] = _GOES_ON
        template = np.frombuffer(self.template, np.uint8)
        before, after = slice(self.pixels.start), slice(self.pixels.stop, None)
        found = tf.concat([raw[:, before], raw[:, after]], axis=1)
        mask, template = (np.concatenate([of[before], of[after]]) for of in (mask, template))
        return tf.bitwise.bitwise_and(found, mask) == template

    def _values(self, raw: Any) -> dict[str, Any]:
        numbers = {name: tf.cast(raw[:, at], tf.int64) for name, at in self.numbers.items()}
        return {self.image: raw[:, self.pixels], **numbers}


def layout_of(features: Mapping[str, Feature]) -> Layout | None:
    """The layout of records with these features; None unless they are raw pixels and integers."""
    zeros: dict[str, bytes | int] = {}
    for name in sorted(features):
        feature = features[name]
        if feature.encoding == "raw":
            zeros[name] = bytes(feature.values)
        elif feature.encoding == "int64" and feature.shape == ():
            zeros[name] = 0
        else:
            return None
    images = [name for name, zero in zeros.items() if isinstance(zero, bytes)]
    if len(images) != 1:
        return None
    entries = {name: encode_entry(name, zero) for name, zero in zeros.items()}
    template = join_entries(list(entries.values()))
    ends, at = {}, len(template) - sum(map(len, entries.values()))
    for name, entry in entries.items():
        at += len(entry)
        ends[name] = at  # an entry ends with its values
    end = ends.pop(images[0])
    pixels = slice(end - features[images[0]].values, end)
    return Layout(template, pixels, {name: at - 1 for name, at in ends.items()}, images[0])
