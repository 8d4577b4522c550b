"""The images' base: Debian 12 with Python, made by debootstrap from signed packages."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from localcluster import buildah, cache
from localcluster.errors import ClusterError

PYTHON = "3.11"
"""The Python of the base; wheels must fit it."""

_SUITE = "bookworm"
_PACKAGES = ("python3", "python3-venv", "ca-certificates")
_USELESS = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "var/lib/apt/lists",
    "var/cache/apt",
    "var/log",
)
_CONTAINERFILE = """\
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
"""


def key() -> str:
    """Digest of what the base is made from."""
    return cache.key(_SUITE, *_PACKAGES, *_USELESS, _CONTAINERFILE)


def ensure() -> str:
    """The base's name in buildah's storage, made first if it is not there.

    Raises:
        ClusterError: debootstrap or buildah failed.
    """
    tag = f"localhost/securetrain/base:{_SUITE}-{key()}"
    if not buildah.exists(tag):
        with tempfile.TemporaryDirectory(prefix=".base.", dir=cache.root()) as folder:
            context = Path(folder)
            _bootstrap(context)
            (context / "Containerfile").write_text(_CONTAINERFILE)
            buildah.build(context, tag)
    return tag


def _bootstrap(context: Path) -> None:
    rootfs = context / "rootfs"
    packages = f"--include={','.join(_PACKAGES)}"
    _run("debootstrap", "--variant=minbase", packages, _SUITE, str(rootfs))
    for name in _USELESS:
        shutil.rmtree(rootfs / name, ignore_errors=True)
    _run("tar", "-C", str(rootfs), "-cf", str(context / "rootfs.tar"), ".")
    shutil.rmtree(rootfs)


def _run(*argv: str) -> None:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode:
        output = "\n".join((result.stdout + result.stderr).strip().splitlines()[-8:])
        raise ClusterError(f"`{' '.join(argv[:2])}` failed: {output}")
