"""Buildah, set up to work without a daemon, user name spaces or mount privileges of its own."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from localcluster.errors import ClusterError


def build(context: Path, tag: str, *arguments: str) -> None:
    """Builds an image from a folder with everything in it that the Containerfile names."""
    _must("build", "--quiet", "--tag", tag, *arguments, str(context))


def exists(tag: str) -> bool:
    """Whether an image is in the local storage."""
    return _buildah("inspect", "--type", "image", tag).returncode == 0


def export(tag: str, layout: Path, name: str) -> None:
    """Adds an image to an OCI layout folder; uncompressed, for it never leaves this machine."""
    layout.mkdir(parents=True, exist_ok=True)
    _must("push", "--quiet", "--disable-compression", tag, f"oci:{layout}:{name}")


def remove(tag: str) -> None:
    """Removes an image from the local storage if it is there."""
    if exists(tag):
        _must("rmi", tag)


def _must(*arguments: str) -> None:
    result = _buildah(*arguments)
    if result.returncode:
        output = "\n  ".join((result.stdout + result.stderr).strip().splitlines()[-12:])
        raise ClusterError(f"`buildah {arguments[0]}` failed:\n  {output}")


def _buildah(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"STORAGE_DRIVER": _storage(), "BUILDAH_ISOLATION": "chroot"}
    argv = ["buildah", *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


@cache
def _storage() -> str:
    """Overlay where the kernel has it, else the slow one that works everywhere."""
    environment = os.environ | {"STORAGE_DRIVER": "overlay"}
    probe = subprocess.run(["buildah", "info"], env=environment, capture_output=True, check=False)
    return "vfs" if probe.returncode else "overlay"
