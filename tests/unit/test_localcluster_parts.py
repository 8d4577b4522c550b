"""The parts of the local cluster that need no server: ports, cache, certificates, archives."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from localcluster import cache, network, oci, ports
from localcluster.errors import ClusterError
from localcluster.pki import Authority, write_private


def test_a_taken_port_is_named_with_the_fix() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"127\.0\.0\.1:{port}\. Fix: stop it"):
            ports.require_free([("127.0.0.1", port)])


def test_a_port_answers_while_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ports.answers("127.0.0.1", port)
    assert not ports.answers("127.0.0.1", port)


def test_chosen_ports_are_the_same_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "state" / "ports.json"
    first = ports.remembered(file, ("api", "raft"))
    assert len(set(first.values())) == 2
    assert ports.remembered(file, ("api", "raft")) == first


def test_a_failed_build_leaves_nothing_and_the_next_one_can_succeed(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(RuntimeError), cache.building(target):
        raise RuntimeError
    with cache.building(target) as empty:
        assert empty is not None
        (empty / "file").write_text("whole")
    with cache.building(target) as empty:
        assert empty is None
    assert (target / "file").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["made"]


def test_two_builders_build_once(tmp_path: Path) -> None:
    built = []

    def build() -> None:
        with cache.building(tmp_path / "made") as empty:
            if empty is not None:
                built.append(empty)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_keys_tell_apart_parts_that_join_to_the_same_text() -> None:
    assert cache.key("ab", "c") != cache.key("a", "bc")


def test_a_tree_changes_with_names_and_content_but_not_with_bytecode(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = cache.tree([tmp_path], ("*",))
    (tmp_path / "a.pyc").write_text("x")
    assert cache.tree([tmp_path], ("*",)) == before
    (tmp_path / "a.py").write_text("2")
    assert cache.tree([tmp_path], ("*",)) != before


def test_a_private_file_is_private(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_server_certificate_is_accepted_for_its_hosts_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("server", common_name="server", hosts=("localhost", "127.0.0.1"))
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(pair.certificate, pair.key)
    client_side = ssl.create_default_context(cafile=str(authority.certificate))
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    assert _shakes_hands(server_side, client_side, "127.0.0.1")
    assert not _shakes_hands(server_side, client_side, "other.example")


def test_an_authority_is_found_again_in_its_folder(tmp_path: Path) -> None:
    first = Authority(tmp_path, "ca")
    pair = first.issue("server", common_name="server")
    content = pair.certificate.read_bytes()
    assert Authority(tmp_path, "ca").issue("server", common_name="x") == pair
    assert pair.certificate.read_bytes() == content


def test_a_thin_archive_leaves_out_what_the_importer_has(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF")
    blobs = oci.single_program(program)
    layout = tmp_path / "layout"
    for digest, data in blobs.items():
        file = oci.blob(layout, digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    layer, config, manifest = blobs
    target = tmp_path / "thin.tar"
    oci.write_thin_archive(target, "localhost/x:1", layout, manifest, {layer})
    with tarfile.open(target) as archive:
        names = set(archive.getnames())
        index = archive.extractfile("index.json")
        assert index is not None
        entry = json.loads(index.read())["manifests"][0]
    held = {digest.removeprefix("sha256:") for digest in (config, manifest)}
    assert names == {f"blobs/sha256/{name}" for name in held} | {"index.json", "oci-layout"}
    assert entry["digest"] == manifest


def test_pruning_keeps_one_image_whole(tmp_path: Path) -> None:
    blobs = oci.single_program(_file(tmp_path / "one", b"1"))
    others = oci.single_program(_file(tmp_path / "two", b"2"))
    layout = tmp_path / "layout"
    for digest, data in (blobs | others).items():
        oci.blob(layout, digest).parent.mkdir(parents=True, exist_ok=True)
        oci.blob(layout, digest).write_bytes(data)
    named = "org.opencontainers.image.ref.name"
    entries = [
        {"digest": list(image)[-1], "annotations": {named: name}}
        for name, image in (("one", blobs), ("two", others))
    ]
    (layout / "index.json").write_text(json.dumps({"manifests": entries}))
    oci.prune(layout, list(blobs)[-1])
    assert oci.manifests(layout) == {"one": list(blobs)[-1]}
    left = {file.name for file in (layout / "blobs" / "sha256").iterdir()}
    assert left == {digest.removeprefix("sha256:") for digest in blobs}


def test_only_network_name_spaces_of_pods_can_be_removed(tmp_path: Path) -> None:
    victim = _file(tmp_path / "cni-victim", b"")
    network.remove_namespace(str(victim))
    assert victim.exists()


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _shakes_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> bool:
    """A handshake in memory, back and forth until both sides are content or one is not."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        done = 0
        for side in sides:
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
        if done == len(sides):
            return True
    return False
