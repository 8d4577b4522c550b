"""Image archives that containerd imports: thin ones, without the layers that it already has."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def single_program(program: Path, *, architecture: str = "amd64") -> dict[str, bytes]:
    """An image of one static program as blobs by digest; the manifest is the last of them."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        _add(archive, program.name, program.read_bytes(), mode=0o755)
    data = layer.getvalue()
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(data)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [_descriptor(_LAYER, data)],
        }
    )
    return {_digest(blob): blob for blob in (data, config, manifest)}


def write_archive(target: Path, name: str, blobs: Mapping[str, bytes]) -> str:
    """Writes blobs, the last of which is the manifest, as an archive; returns its digest."""
    with tarfile.open(target, "w") as archive:
        for digest, blob in blobs.items():
            _add(archive, f"blobs/sha256/{digest.removeprefix('sha256:')}", blob)
        digest, manifest = list(blobs.items())[-1]
        _add_index(archive, name, digest, len(manifest))
    return digest


def write_thin_archive(
    target: Path, name: str, layout: Path, manifest: str, present: Set[str]
) -> None:
    """Writes an image of an OCI layout folder as an archive, without the blobs in `present`.

    Args:
        target: the archive.
        name: the image's name, with tag, in containerd.
        layout: the folder, with `blobs/sha256/…`.
        manifest: the digest of the image's manifest.
        present: digests of blobs that the importer has already.
    """
    content = json.loads(blob(layout, manifest).read_bytes())
    wanted = [layer["digest"] for layer in content["layers"] if layer["digest"] not in present]
    with tarfile.open(target, "w") as archive:
        for digest in (*wanted, content["config"]["digest"], manifest):
            file = blob(layout, digest)
            archive.add(file, f"blobs/sha256/{file.name}")
        _add_index(archive, name, manifest, blob(layout, manifest).stat().st_size)


def blob(layout: Path, digest: str) -> Path:
    """The file of a blob in an OCI layout folder."""
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def manifests(layout: Path) -> dict[str, str]:
    """Manifest digest by tag of an OCI layout folder."""
    file = layout / "index.json"
    if not file.exists():
        return {}
    named = "org.opencontainers.image.ref.name"
    entries = json.loads(file.read_bytes())["manifests"]
    return {entry["annotations"][named]: entry["digest"] for entry in entries}


def prune(layout: Path, keep: str) -> None:
    """Removes every image but one from an OCI layout folder, and the blobs that only they used."""
    index = json.loads((layout / "index.json").read_bytes())
    index["manifests"] = [entry for entry in index["manifests"] if entry["digest"] == keep]
    (layout / "index.json").write_bytes(_json(index))
    content = json.loads(blob(layout, keep).read_bytes())
    used = {keep, content["config"]["digest"], *(layer["digest"] for layer in content["layers"])}
    names = {digest.removeprefix("sha256:") for digest in used}
    for file in (layout / "blobs" / "sha256").iterdir():
        if file.name not in names:
            file.unlink()


def _add_index(archive: tarfile.TarFile, name: str, digest: str, size: int) -> None:
    annotations = {"io.containerd.image.name": name}
    entry = {"mediaType": _MANIFEST, "digest": digest, "size": size, "annotations": annotations}
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}
    _add(archive, "index.json", _json(index))
    _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))


def _add(archive: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
