"""dataset.json."""

from __future__ import annotations

from fuzz.target import Target
from securetrain.sealed import strict_json
from securetrain.sealed.dataset import MAX_RECORD_VALUES, Manifest, max_index_bytes, parse_manifest
from securetrain.sealed.features import MAX_WIDTH, image_name, input_shape


def holds(manifest: Manifest) -> None:
    """It means the same when it is written anew, and what is allocated by it is bounded."""
    assert parse_manifest(strict_json.dump(manifest)) == manifest
    shape = input_shape(manifest.features, manifest.task)
    name = image_name(manifest.features, manifest.task)
    if name is None:
        assert shape[0] <= MAX_WIDTH
    else:
        assert manifest.features[name].values <= MAX_RECORD_VALUES
    assert len(manifest.task.labels) == manifest.task.classes
    assert all(0 < max_index_bytes(info) < 1 << 26 for info in manifest.splits.values())


TARGET = Target(parse_manifest, names="dataset.json", holds=holds, json=True)
