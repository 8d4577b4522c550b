"""Plaintext, keys and tokens are looked for everywhere but in memory, after all that has happened.

What the other stories of this folder have left is searched: jobs that succeeded, failed, missed
their gates, were attacked, killed, patched, or met a Vault that quotes keys in its errors.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from localcluster.demo import WORK as DEMO
from localcluster.platform import Platform
from securetrain.api.names import Split, dek_associated_data, model_dek_context
from securetrain.sealed.dataset import load_dataset
from securetrain.sealed.model import KEY_FILE, parse_key
from securetrain.vault.client import VaultClient
from securetrain.vault.custody import Custodian
from support import cores, leak, node, sealing
from support.api import eventually
from support.echoing_vault import DECRYPT, UNWRAP, EchoingVault
from support.hunting import Find, hunt, lines_with
from support.outcomes import NAMESPACE
from support.raw_audit import RawAudit
from support.reaper import Reaper
from support.s3_server import S3Server
from support.witness import Witness

PROJECTED = "kubernetes.io~projected"
MOUNTED_SECRET = "kubernetes.io~secret"
AUDIT = "apiserver-audit"
NODE_LOGS = "logs of node and control plane"
TOKEN_CALLS = {("serviceaccounts", "token"), ("tokenreviews", "")}


@pytest.fixture(scope="module", autouse=True)
def _all_have_ended(platform: Platform, submitted: Reaper) -> None:
    for job in ("killed", "bereft", "echoed", "missed", "flipped", "bucket"):
        kubectl = platform.cluster.kubectl
        ended = "--for=jsonpath={.status.completionTime}"
        kubectl("wait", f"stj/{job}", "-n", NAMESPACE, ended, "--timeout=300s")


@pytest.fixture(scope="module")
def leaked(platform: Platform) -> Iterator[bytes]:
    """A secret that was given away in every kind of place."""
    secret = secrets.token_bytes(32)
    leak.plant(platform, secret)
    yield secret
    leak.remove(platform)


@pytest.fixture(scope="module")
def tmp_of_victim(victim: node.RunningPod) -> str:
    """How the victim's /tmp is mounted."""
    mounts = Path(f"/proc/{victim.pid}/mountinfo").read_text().splitlines()
    (mount,) = [line for line in mounts if line.split()[4] == "/tmp"]
    return mount


@pytest.fixture(scope="module")
def dumps(
    platform: Platform,
    leaked: bytes,
    victim: node.RunningPod,
    tmp_of_victim: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Core dumps of two pods that crashed: one that leaks, and one that trains."""
    folder = tmp_path_factory.mktemp("cores")
    unprotected = leak.running(platform, leaked)
    eventually(lambda: is_seen(platform, unprotected, leaked), "the witness sees it")
    with cores.collected(folder):
        crashed = [Path(f"/proc/{pid}") for pid in (victim.pid, unprotected)]
        for process in crashed:
            cores.crash(int(process.name))
        eventually(lambda: not any(p.exists() for p in crashed), "both crashes", seconds=120)
        eventually(lambda: any(folder.iterdir()), "a core dump")
    platform.cluster.kubectl("delete", "stj", "victim", "-n", NAMESPACE, "--wait=false")
    return folder


def is_seen(platform: Platform, pid: int, secret: bytes) -> bool:
    """Whether the witness has noted the command line and the files of a pod that leaks."""
    evidence = platform.work / "evidence"
    said = any(
        secret.hex().upper().encode() in file.read_bytes()
        for file in evidence.glob("processes/cmdline-*")
    )
    return said and any(secret in file.read_bytes() for file in evidence.glob(f"tmp/{pid}-*"))


@pytest.fixture(scope="module")
def places(witness: Witness, platform: Platform, dumps: Path) -> dict[str, Path]:
    """Everything that outlives a pod's memory, by what it is."""
    state, evidence = platform.cluster.state, platform.work / "evidence"
    assert witness.failure is None
    return {
        "etcd": state / "etcd",
        NODE_LOGS: state / "logs",
        "logs of pods": witness.keep_logs(),
        "processes of pods": evidence / "processes",
        "/tmp of pods": evidence / "tmp",
        "kubelet": state / "kubelet",
        "containerd": state / "containerd",
        "volumes": platform.work / "volumes",
        "OpenBao": platform.cluster.openbao.audit_log.parent,
        "objects": objects(platform, evidence / "objects.json"),
        "core dumps": dumps,
    }


def objects(platform: Platform, file: Path) -> Path:
    """Every object of every kind, as the API server shows it."""
    kubectl = platform.cluster.kubectl
    kinds = kubectl("api-resources", "--verbs=list", "-o", "name").split()
    file.write_text(kubectl("get", ",".join(kinds), "-A", "-o", "json"))
    return file


@pytest.fixture(scope="module")
def audit_files(platform: Platform, witness: Witness, dumps: Path) -> list[Path]:
    """The files of the API server's audit log, which reach back to the beginning."""
    log = platform.cluster.control_plane.audit_log
    began = witness.began.stat().st_mtime
    files = [file for file in log.parent.glob(f"{AUDIT}*") if file.stat().st_mtime >= began]
    with min(files, key=lambda file: file.stat().st_mtime).open() as lines:
        first = json.loads(next(lines))["stageTimestamp"]
    assert datetime.fromisoformat(first).timestamp() < began + 60, "the log was cut"
    return files


@pytest.fixture(scope="module")
def pod_tokens(audit_files: list[Path]) -> dict[str, bytes]:
    """Signatures of all tokens that kubelet got for pods."""
    tokens = {
        str(json.loads(line)["responseObject"]["status"]["token"])
        for line in lines_with({"kind": b'"kind":"TokenRequest"'}, audit_files)
        if b'"code":201' in line
    }
    return named("pod token", (token.rpartition(".")[2].encode() for token in tokens))


def named(kind: str, found: Iterable[bytes]) -> dict[str, bytes]:
    """Names by which a failing test can tell secrets apart without telling them."""
    return {f"{kind} {number}": secret for number, secret in enumerate(sorted(found))}


@pytest.fixture(scope="module")
def keys(platform: Platform, dataset: Path) -> dict[str, bytes]:
    """The data keys as their owner knows them: of each split, and of a model."""
    openbao = platform.cluster.openbao
    sealed = load_dataset(dataset)
    model = parse_key((platform.volume(NAMESPACE, "models") / "bereft" / KEY_FILE).read_bytes())
    with VaultClient(openbao.address, openbao.ca_pem, token=openbao.root_token) as client:
        owner = Custodian(client, "transit", f"{NAMESPACE}-digits")
        found = {
            split.value: owner.unwrap(
                sealed.keys[split].wrapped,
                dek_associated_data(split, sealed.manifest_sha256, sealed.policy_sha256),
            )
            for split in Split
        }
        found["model"] = Custodian(client, model.mount, model.kek).open_model_key(
            model.wrapped, model_dek_context(model.job_uid, model.policy_sha256)
        )
    return {f"key {name}": dek.reveal() for name, dek in found.items()}


@pytest.fixture(scope="module")
def storage_login(s3: S3Server) -> dict[str, bytes]:
    """The secret key by which jobs reach their bucket."""
    return {"storage login": s3.secret_key.reveal()}


@pytest.fixture(scope="module")
def found(
    vault_secrets: RawAudit,
    places: dict[str, Path],
    keys: dict[str, bytes],
    leaked: bytes,
    pod_tokens: dict[str, bytes],
    storage_login: dict[str, bytes],
    witness: Witness,
) -> list[Find]:
    """One search of all places for all secrets."""
    wanted = {
        "leaked": leaked,
        "marker": sealing.MARKER,
        **named("key", vault_secrets.unwrapped()),
        **keys,
        **named("wrapping token", map(str.encode, vault_secrets.wrapping_tokens())),
        **named("login", map(str.encode, vault_secrets.logins())),
        **pod_tokens,
        **storage_login,
    }
    kinds = Counter(name.partition(" ")[0] for name in wanted)
    print(kinds)
    assert min(kinds[kind] for kind in ("key", "wrapping", "login", "pod")) > 5
    demo = {"the demo's volumes": DEMO / "volumes"} if DEMO.exists() else {}
    return hunt(wanted, {**places, **demo}, since=witness.began)


def of(kind: str, found: list[Find]) -> list[Find]:
    """Finds of one kind of secret."""
    return [find for find in found if find.secret.startswith(kind)]


def test_a_secret_that_leaks_is_found_in_every_kind_of_place(
    places: dict[str, Path], found: list[Find]
) -> None:
    leaks = of("leaked", found)
    assert {find.place for find in leaks} == set(places)
    logs = {find.path.name for find in leaks if find.place == NODE_LOGS}
    assert {"kubelet.log", "containerd.log", "apiserver-audit.jsonl"} <= logs


def test_a_crash_of_a_training_pod_leaves_no_core_dump(dumps: Path) -> None:
    """In spite of a kernel that pipes dumps to root; a pod without our hardening leaves one."""
    assert {dump.name.rpartition(".")[0] for dump in dumps.iterdir()} == {leak.POD}


def test_files_in_the_memory_of_a_pod_are_never_swapped_to_a_disk(tmp_of_victim: str) -> None:
    swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    assert " - tmpfs " in tmp_of_victim
    assert "noswap" in tmp_of_victim or not swaps


def test_no_plaintext_is_found_anywhere(found: list[Find]) -> None:
    assert of("marker", found) == []


def test_no_key_is_found_anywhere(
    vault_secrets: RawAudit, keys: dict[str, bytes], found: list[Find]
) -> None:
    assert set(keys.values()) <= vault_secrets.unwrapped()
    assert of("key", found) == []


def test_no_wrapping_token_and_no_login_to_vault_is_found_anywhere(found: list[Find]) -> None:
    assert of("wrapping token", found) + of("login", found) == []


def test_vaults_errors_did_quote_keys_tokens_and_logins(
    vault_secrets: RawAudit, echo: EchoingVault
) -> None:
    """Or else it would prove nothing that none of them is found."""
    quoted = {path: " ".join(t for t in echo.echoed if path in t) for path in (DECRYPT, UNWRAP)}
    assert any(login in quoted[DECRYPT] for login in vault_secrets.logins())
    assert any(token in quoted[UNWRAP] for token in vault_secrets.wrapping_tokens())
    assert any(b64encode(key).decode() in quoted[UNWRAP] for key in vault_secrets.unwrapped())


def test_tokens_of_pods_lie_only_where_the_kubelet_hands_them_over(found: list[Find]) -> None:
    """Besides, the API server's audit log shows them; the next test says in which calls."""
    elsewhere = [
        find
        for find in of("pod token", found)
        if PROJECTED not in find.path.parts
        and not (find.place == NODE_LOGS and find.path.name.startswith(AUDIT))
    ]
    assert elsewhere == []


def test_tokens_of_pods_are_sent_to_the_api_server_only_to_be_reviewed(
    pod_tokens: dict[str, bytes], audit_files: list[Path]
) -> None:
    targets = [json.loads(line)["objectRef"] for line in lines_with(pod_tokens, audit_files)]
    kinds = {(target["resource"], target.get("subresource", "")) for target in targets}
    assert kinds == TOKEN_CALLS


def test_a_login_to_object_storage_lies_in_its_secret_and_where_the_kubelet_mounts_it(
    found: list[Find], storage_login: dict[str, bytes], places: dict[str, Path]
) -> None:
    """The cluster keeps Secrets in etcd and shows them to who may list them; we add nothing."""
    (login,) = storage_login.values()
    finds = of("storage login", found)
    assert {"etcd", "objects"} <= {find.place for find in finds}
    elsewhere = [
        find
        for find in finds
        if find.place not in ("etcd", "objects")
        and MOUNTED_SECRET not in find.path.parts
        and not (find.place == NODE_LOGS and find.path.name.startswith(AUDIT))
    ]
    assert elsewhere == []
    items = json.loads(places["objects"].read_text())["items"]
    forms = {login.decode(), b64encode(login).decode()}
    bearers = {item["kind"] for item in items if any(form in json.dumps(item) for form in forms)}
    assert bearers == {"Secret"}


def test_a_login_to_object_storage_goes_through_the_api_server_in_its_secret_only(
    storage_login: dict[str, bytes], audit_files: list[Path]
) -> None:
    lines = lines_with(storage_login, audit_files)
    assert {json.loads(line)["objectRef"]["resource"] for line in lines} == {"secrets"}
