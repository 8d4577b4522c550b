"""The operator's and the trainer's image, without a registry.

    base          Debian's smallest system with Python (debootstrap)
    dependencies  on it, the pinned wheels of one requirements file
    image         on that, the project's own wheel: all that a change of code makes anew

Everything is named by a digest of what it is made from and is made only when that is not there yet.
What is built ends up in an OCI layout folder of the cache, from which `load` gives a cluster what
it lacks, under a name by digest that pods may use as if it had been pulled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from localcluster import base_image, buildah, cache, oci, packages
from localcluster.containerd import Containerd
from localcluster.errors import ClusterError
from localcluster.progress import Progress

_ROOT = Path(__file__).resolve().parent.parent
_SOURCES = ("securetrain", "operator/securetrain_operator", "training_image/securetrain_trainer")
_REPOSITORY = "localhost/securetrain"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one image is made from."""

    name: str
    containerfile: Path
    requirements: Path

    @property
    def dependencies_key(self) -> str:
        """Digest of all that the dependencies are made from."""
        files = (self.containerfile.read_bytes(), self.requirements.read_bytes())
        return cache.key(self.name, base_image.key(), *files)

    @property
    def key(self) -> str:
        """Digest of all that the image is made from."""
        sources = cache.tree((_ROOT / folder for folder in _SOURCES), ("*",))
        files = ((_ROOT / name).read_bytes() for name in ("pyproject.toml", "README.md", "LICENSE"))
        return cache.key(self.dependencies_key, sources, *files)


RECIPES = (
    Recipe("operator", _ROOT / "operator/Containerfile", _ROOT / "requirements/operator.txt"),
    Recipe("trainer", _ROOT / "training_image/Containerfile", _ROOT / "requirements/trainer.txt"),
)


@dataclass(frozen=True, slots=True)
class Image:
    """A built image.

    Attributes:
        name: `operator` or `trainer`.
        digest: of its manifest.
        layout: the OCI layout folder that holds it.
    """

    name: str
    digest: str
    layout: Path

    @property
    def reference(self) -> str:
        """The name by digest, for a pod's `image`."""
        return f"{_REPOSITORY}/{self.name}@{self.digest}"


def build(*, quiet: bool = False) -> dict[str, Image]:
    """Both images, built if anything that they are made from has changed.

    Raises:
        ClusterError: a step failed; its own output says why.
    """
    packages.ensure()
    with _alone():
        return _build_all(quiet)


def load(containerd: Containerd, *, quiet: bool = False) -> dict[str, str]:
    """Builds what is not built, imports what a cluster lacks: reference by image name.

    Raises:
        ClusterError: a step failed; its own output says why.
    """
    packages.ensure()
    with _alone():
        images = _build_all(quiet)
        for image in images.values():
            if image.reference not in containerd.images():
                with Progress(1, quiet=quiet).step(f"importing the {image.name} image"):
                    _import(containerd, image)
    return {name: image.reference for name, image in images.items()}


def _alone() -> AbstractContextManager[None]:
    """One process at a time builds or imports: a build removes what an older one exported."""
    return cache.lock(cache.root() / "images" / ".lock")


def _build_all(quiet: bool) -> dict[str, Image]:
    return {recipe.name: _built(recipe) or _build(recipe, quiet) for recipe in RECIPES}


def _layout(name: str) -> Path:
    return cache.root() / "images" / name


def _built(recipe: Recipe) -> Image | None:
    layout = _layout(recipe.name)
    digest = oci.manifests(layout).get(recipe.key)
    return Image(recipe.name, digest, layout) if digest else None


def _build(recipe: Recipe, quiet: bool) -> Image:
    progress = Progress(5, quiet=quiet)
    layout, key = _layout(recipe.name), recipe.key
    tag = f"{_REPOSITORY}/{recipe.name}:{key}"
    with progress.step(f"{recipe.name} image: base system"):
        base = base_image.ensure()
    with progress.step(f"{recipe.name} image: downloading wheels"):
        wheels = _wheels(recipe.requirements)
    with tempfile.TemporaryDirectory(prefix=".staging.", dir=cache.root()) as folder:
        context = Path(folder)
        _stage(recipe, wheels, context)
        arguments = ["--build-arg", f"BASE_IMAGE={base}", "--file", str(recipe.containerfile)]
        with progress.step(f"{recipe.name} image: dependencies"):
            kept = f"{_REPOSITORY}/{recipe.name}-dependencies:{recipe.dependencies_key}"
            buildah.build(context, kept, *arguments, "--layers", "--target", "dependencies")
        with progress.step(f"{recipe.name} image: the project"):
            buildah.build(context, tag, *arguments, "--layers")
    with progress.step(f"{recipe.name} image: export"):
        outdated = [old for old in oci.manifests(layout) if old != key]
        buildah.export(tag, layout, key)
        digest = oci.manifests(layout)[key]
        oci.prune(layout, digest)
        for old in outdated:
            buildah.remove(f"{_REPOSITORY}/{recipe.name}:{old}")
    return Image(recipe.name, digest, layout)


def _stage(recipe: Recipe, wheels: Path, context: Path) -> None:
    (context / "wheels").mkdir()
    for wheel in wheels.iterdir():
        os.link(wheel, context / "wheels" / wheel.name)
    (context / "requirements.txt").write_bytes(recipe.requirements.read_bytes())
    flags = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(context / "project")]
    _pip("wheel", *flags, str(_ROOT))


def _wheels(requirements: Path) -> Path:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python != base_image.PYTHON:
        raise ClusterError(
            f"the images hold Python {base_image.PYTHON}, but this is Python {python}.",
            fix=f"make the virtual environment with python{base_image.PYTHON}.",
        )
    target = cache.root() / "wheels" / cache.key(requirements.read_bytes())
    with cache.building(target) as empty:
        if empty is not None:
            flags = ["--require-hashes", "--only-binary=:all:", "--dest", str(empty)]
            _pip("download", *flags, "--requirement", str(requirements))
    return target


def _pip(command: str, *arguments: str) -> None:
    argv = [sys.executable, "-m", "pip", command, "--quiet", *arguments]
    result = subprocess.run(argv, check=False, stdout=subprocess.DEVNULL)
    if result.returncode:
        raise ClusterError(f"`pip {command}` failed with {result.returncode}.")


def _import(containerd: Containerd, image: Image) -> None:
    name = f"{_REPOSITORY}/{image.name}:latest"
    present = _layers(containerd)
    with tempfile.TemporaryDirectory(prefix=".import.", dir=cache.root()) as folder:
        archive = Path(folder) / "image.tar"
        oci.write_thin_archive(archive, name, image.layout, image.digest, present)
        containerd.ctr("images", "import", str(archive))
    containerd.ctr("images", "tag", "--force", name, image.reference)


def _layers(containerd: Containerd) -> set[str]:
    """Layers of the images that were imported whole, which containerd therefore keeps.

    Whatever else is in its store may be collected at any moment.
    """
    imported = {
        digest
        for name, digest in containerd.images().items()
        if name.startswith(f"{_REPOSITORY}/") and "@" in name
    }
    manifests = (json.loads(containerd.ctr("content", "get", digest)) for digest in imported)
    return {layer["digest"] for manifest in manifests for layer in manifest["layers"]}
