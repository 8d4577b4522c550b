"""Kubernetes, etcd, CoreDNS, Helm and an S3 server, compiled once from pinned Go modules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from localcluster import cache
from localcluster.errors import ClusterError
from localcluster.progress import Progress

KUBERNETES = "v1.34.4"
_COMPONENTS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
_VERSION = "k8s.io/component-base/version"
_MAJOR, _MINOR = KUBERNETES.removeprefix("v").split(".")[:2]
_LDFLAGS = (
    f"-s -w -X {_VERSION}.gitVersion={KUBERNETES}"
    f" -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
)
_PINNED = {name: f"k8s.io/kubernetes/cmd/{name}" for name in _COMPONENTS} | {
    "etcd": "go.etcd.io/etcd/server/v3",
    "pause": "./pause",
}
"""Built from the go.mod beside this file."""

_INSTALLED = {
    "coredns": "github.com/coredns/coredns@v1.15.0",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
}
"""Built each from its own go.mod: their requirements do not go together."""

_VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
"""The S3 server (Apache-2.0). Only tests need it, so it lies in a folder of its own."""

_MODULE = Path(__file__).parent
_OLDEST_GO = (1, 26)


def folder() -> Path:
    """Where `ensure` puts the programs; a new version of any of them is a new folder."""
    inputs = [(_MODULE / name).read_bytes() for name in ("go.mod", "go.sum", "pause/main.go")]
    return cache.root() / "bin" / cache.key(*inputs, _LDFLAGS, *_INSTALLED.values())


def ensure() -> Path:
    """The folder with all programs, compiled first if it is not there: 6 to 10 minutes on 2 cores.

    Raises:
        ClusterError: Go is absent or too old, or a build failed.
    """
    target = folder()
    if target.exists():
        return target
    _require_go()
    with cache.building(target) as empty:
        if empty is not None:
            _build(empty)
    return target


def versitygw() -> Path:
    """The S3 server's program, compiled first if it is not there: a minute or two on 2 cores.

    Raises:
        ClusterError: as `ensure`.
    """
    target = cache.root() / "bin" / cache.key(_VERSITYGW)
    if not target.exists():
        _require_go()
        with cache.building(target) as empty:
            if empty is not None:
                _install({"versitygw": _VERSITYGW}, empty, Progress(1))
    return target / "versitygw"


def _build(target: Path) -> None:
    progress = Progress(len(_PINNED) + len(_INSTALLED))
    for name, package in _PINNED.items():
        with progress.step(f"compiling {name} (once for this machine)"):
            output = str(target / name)
            flags = ["-trimpath", "-ldflags", _LDFLAGS, "-o", output]
            _go(["build", *flags, package], GOFLAGS="-mod=readonly")
    _install(_INSTALLED, target, progress)
    progress.finish(f"programs are in {target.parent}")


def _install(packages: Mapping[str, str], target: Path, progress: Progress) -> None:
    for name, package in packages.items():
        with progress.step(f"compiling {name} (once for this machine)"):
            _go(["install", "-trimpath", "-ldflags", "-s -w", package], GOBIN=str(target))


def _go(arguments: list[str], **variables: str) -> None:
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"} | variables
    result = subprocess.run(["go", *arguments], cwd=_MODULE, env=environment, check=False)
    if result.returncode:
        raise ClusterError(
            f"`go {arguments[0]} … {arguments[-1]}` failed with {result.returncode}.",
            fix="its own output above says why; the Go module proxy must be reachable.",
        )


def _require_go() -> None:
    wanted = ".".join(map(str, _OLDEST_GO))
    fix = f"install Go {wanted} or newer from https://go.dev/dl and put it on the PATH."
    if shutil.which("go") is None:
        raise ClusterError("Go is not installed; it compiles Kubernetes for this machine.", fix=fix)
    output = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True)
    found = re.match(r"go(\d+)\.(\d+)", output.stdout)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST_GO:
        raise ClusterError(f"Go is too old: {output.stdout.strip()}, not ≥ {wanted}.", fix=fix)
