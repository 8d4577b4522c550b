"""Buildah and Skopeo, set up to work without a daemon or a container runtime of their own."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from localcluster.errors import ClusterError


def build(context: Path, tag: str, *arguments: str) -> None:
    """Builds an image from a folder with everything in it that the Containerfile names."""
    _must("buildah", "build", "--quiet", "--tag", tag, *arguments, str(context))


def exists(tag: str) -> bool:
    """Whether an image is in the local storage."""
    return _run("buildah", "inspect", "--type", "image", tag).returncode == 0


def export(tag: str, layout: Path, name: str) -> None:
    """Adds an image to an OCI layout folder, where layers that are there already cost nothing.

    Buildah's own push would compress every layer each time; Skopeo takes them as they are.
    """
    layout.mkdir(parents=True, exist_ok=True)
    source, target = f"containers-storage:{tag}", f"oci:{layout}:{name}"
    _must("skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", source, target)


def remove(tag: str) -> None:
    """Removes an image from the local storage if it is there."""
    if exists(tag):
        _must("buildah", "rmi", tag)


def _must(*arguments: str) -> None:
    result = _run(*arguments)
    if result.returncode:
        output = "\n".join((result.stdout + result.stderr).strip().splitlines()[-12:])
        raise ClusterError(f"`{' '.join(arguments[:2])}` failed: {output}")


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"STORAGE_DRIVER": _storage(), "BUILDAH_ISOLATION": "chroot"}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


@cache
def _storage() -> str:
    """Overlay where the kernel has it, else the slow one that works everywhere."""
    environment = os.environ | {"STORAGE_DRIVER": "overlay"}
    probe = subprocess.run(["buildah", "info"], env=environment, capture_output=True, check=False)
    return "vfs" if probe.returncode else "overlay"
