"""What a machine needs once, made side by side: compiling is slow, and so is downloading."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from localcluster import binaries, images, packages


def prepare(*, tests: bool = False) -> None:
    """Compiles the programs and builds the images that are not there.

    Args:
        tests: also what only tests need.

    Raises:
        ClusterError: a step failed; its own output says why.
    """
    packages.ensure()
    with ThreadPoolExecutor(2) as pool:
        programs, built = pool.submit(binaries.ensure), pool.submit(images.build)
        if tests:
            pool.submit(binaries.versitygw).result()
    programs.result()
    built.result()
