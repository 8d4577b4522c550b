"""One real cluster for all end-to-end tests: kubelet, containerd, OpenBao, the built images.

Tests run in the order in which they stand here: they tell stories.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.cluster import Cluster
from localcluster.platform import ROOT, Platform

WORK = ROOT / "build" / "e2e"
NAMESPACE = "team-e2e"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Put the tests of this folder last, in the order in which they were written."""
    here = Path(__file__).parent
    mine = [item for item in items if here in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.timeout(420))
    yield
    items[:] = [*(item for item in items if item not in mine), *mine]


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """The operator, installed; the cluster is taken down again unless it was up before."""
    cluster = Cluster()
    was_up = all(process.running for process in cluster.processes)
    cluster.up()
    try:
        shutil.rmtree(WORK, ignore_errors=True)
        platform = Platform(cluster, WORK)
        platform.remove_namespaces("team-a", "thief", NAMESPACE)
        platform.set_vault_up(NAMESPACE)
        platform.install()
        platform.open_namespace(NAMESPACE)
        yield platform
    finally:
        if not was_up:
            cluster.down()
