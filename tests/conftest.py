"""Real servers for the tests: one OpenBao, one Kubernetes control plane, one S3 server per session.

All listen on loopback, live in temporary folders, need neither root nor a node, and die with the
test run. They are made on first use, so unit tests do not pay for them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from localcluster.control_plane import ControlPlane
from localcluster.kubectl import Kubectl
from localcluster.openbao import OpenBao
from localcluster.versitygw import VersityGateway
from support.s3_server import S3Server

# How long something takes is the matter of `make bench`: a busy machine makes no test fail.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--no-skips` is for complete runs: a test that did not run has proved nothing."""
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the run")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait for servers come first, so that short ones fill the end of a parallel run."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run when something was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter is not None and reporter.stats.get("skipped")
    if session.config.getoption("--no-skips") and skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A fresh, unsealed OpenBao: `.address`, `.ca_pem`, `.root_token`, `.audit_log`, `.api(…)`."""
    server = OpenBao(tmp_path_factory.mktemp("openbao"), die_with_parent=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A fresh control plane without nodes: `.kubeconfig`, `.kubectl(…)`, `.audit_log`."""
    cluster = ControlPlane(
        tmp_path_factory.mktemp("control-plane"), audit="Metadata", die_with_parent=True
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """kubectl as the administrator of `control_plane`."""
    return control_plane.kubectl


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A fresh S3 server: `.endpoint`, `.ca_pem`, `.access_key`, `.secret_key`, `.bucket()`."""
    server = VersityGateway(tmp_path_factory.mktemp("s3"), die_with_parent=True)
    try:
        server.start()
        yield S3Server(server)
    finally:
        server.stop()
