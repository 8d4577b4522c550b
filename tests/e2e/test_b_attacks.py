"""Thefts on the real cluster: each is refused, and the job that is attacked trains on.

One long-running job is the victim of all; after each attack its launch record must be what it was.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from localcluster.imitation import AUDIENCE, call_gateway_from
from localcluster.platform import GATEWAY_NAME, OPERATOR_NAMESPACE, Platform
from securetrain.api.names import Split, dek_associated_data
from securetrain.errors import ExitCode, VaultDenied
from securetrain.sealed.dataset import load_dataset
from securetrain.secret import Secret
from securetrain.vault.client import VaultClient
from support import node, outcomes
from support.api import eventually
from support.outcomes import DATASET, NAMESPACE
from support.reaper import Reaper
from support.unguarded import without_guard

JOB = "victim"
EDITOR = "mallory"
COPY = f"stj-{JOB}-train-copy-"


@pytest.fixture(scope="module", autouse=True)
def _editor(platform: Platform, submitted: Reaper) -> None:
    """Somebody with the role `edit`; and other jobs go their way meanwhile."""
    editor = ["--clusterrole=edit", f"--user={EDITOR}", "-n", NAMESPACE]
    platform.cluster.kubectl.run("create", "rolebinding", "mallory-edits", *editor)


@pytest.fixture(scope="module", autouse=True)
def progress_before(platform: Platform, victim: node.RunningPod) -> str:
    """When the victim had last told of its progress before all attacks."""
    return node.progress(platform, NAMESPACE, JOB)


@pytest.fixture(autouse=True)
def _unharmed(platform: Platform, victim: node.RunningPod) -> Iterator[None]:
    """After each attack: same record, same pod, still training."""
    before = node.launch_record(platform, job_uid(platform))
    yield
    assert node.launch_record(platform, job_uid(platform)) == before
    assert node.get(platform, "pod", NAMESPACE, victim.name)["metadata"]["uid"] == victim.uid
    assert node.get(platform, "stj", NAMESPACE, JOB)["status"]["phase"] == "Training"


def job_uid(platform: Platform) -> str:
    return str(node.get(platform, "stj", NAMESPACE, JOB)["metadata"]["uid"])


def grant_request(
    platform: Platform, *, purpose: str = "train", splits: str = ""
) -> dict[str, Any]:
    """What the real pod would send, or with other splits."""
    folder = platform.volume(NAMESPACE, "datasets") / DATASET
    keys = json.loads((folder / "keys.json").read_text())
    content = (folder / "dataset.json").read_bytes()
    manifest = json.loads(content)
    wanted = splits.split() or ["train", "validation"]
    return {
        "purpose": purpose,
        "datasetSha256": hashlib.sha256(content).hexdigest(),
        "dataset": {"name": "digits", "id": manifest["id"], "records": 1},
        "policy": base64.b64encode((folder / "policy.json").read_bytes()).decode(),
        "keys": {split: keys["keys"][split] for split in wanted},
    }


def test_a_second_grant_for_the_same_pod_is_refused(
    platform: Platform, victim: node.RunningPod
) -> None:
    request = grant_request(platform)
    answer = node.call_gateway(platform, "/v1/grants", request, victim.token, inside=victim)
    assert (answer.status, answer.reason) == (409, "AlreadyGranted")


@pytest.mark.parametrize(
    ("purpose", "splits"), [("train", "train test"), ("train", "test"), ("certify", "test")]
)
def test_a_training_pod_never_gets_the_test_key_from_the_gateway(
    platform: Platform, victim: node.RunningPod, purpose: str, splits: str
) -> None:
    request = grant_request(platform, purpose=purpose, splits=splits)
    answer = node.call_gateway(platform, "/v1/grants", request, victim.token, inside=victim)
    assert answer.status in (403, 422)
    assert "keys" not in answer.body


def test_vault_refuses_the_test_key_to_the_operators_own_training_login(
    platform: Platform,
) -> None:
    """The gateway bypassed: the operator's own Vault token, read on its node."""
    pods = node.get(platform, "pods", OPERATOR_NAMESPACE)["items"]
    (pod,) = [p for p in pods if p["status"]["phase"] == "Running"]
    volumes = [v for v in pod["spec"]["volumes"] if "projected" in v]
    volume = next(
        v["name"]
        for v in volumes
        if any(
            s.get("serviceAccountToken", {}).get("audience") == "vault"
            for s in v["projected"]["sources"]
        )
    )
    jwt = node.token_of(platform, pod["metadata"]["uid"], volume)
    openbao = platform.cluster.openbao
    folder = platform.volume(NAMESPACE, "datasets") / DATASET
    dataset = load_dataset(folder)

    def ask(split: Split, role: str) -> None:
        with VaultClient(openbao.address, openbao.ca_pem) as client:
            client.login_jwt("kubernetes-securetrain", role, Secret.from_text(jwt))
            binding = dek_associated_data(split, dataset.manifest_sha256, dataset.policy_sha256)
            body = {
                "ciphertext": dataset.keys[split].wrapped,
                "associated_data": base64.b64encode(binding).decode(),
            }
            client.write(f"transit/decrypt/{NAMESPACE}-digits", body, wrap_ttl=30)

    ask(Split.TRAIN, f"st-train-{NAMESPACE}")
    ask(Split.TEST, f"st-certify-{NAMESPACE}")
    with pytest.raises(VaultDenied):
        ask(Split.TEST, f"st-train-{NAMESPACE}")


def test_the_stolen_token_is_useless_from_another_address(
    platform: Platform, victim: node.RunningPod
) -> None:
    answer = node.call_gateway(platform, "/v1/grants", grant_request(platform), victim.token)
    assert (answer.status, answer.reason) == (403, "NotOurPod")


def test_an_editor_cannot_mint_a_token_for_the_real_pod(
    platform: Platform, victim: node.RunningPod
) -> None:
    minted = mint(platform, victim, AUDIENCE)
    assert minted.returncode != 0
    assert "only a kubelet" in minted.stderr


def test_without_the_guard_a_minted_token_fails_by_its_address(
    platform: Platform, victim: node.RunningPod
) -> None:
    with without_guard(platform, "securetrain-token", victim):
        minted = mint(platform, victim, AUDIENCE)
        assert minted.returncode == 0, minted.stderr
        answer = node.call_gateway(
            platform, "/v1/grants", grant_request(platform), minted.stdout.strip()
        )
    assert (answer.status, answer.reason) == (403, "NotOurPod")


def test_a_token_of_another_audience_is_refused(
    platform: Platform, victim: node.RunningPod
) -> None:
    minted = mint(platform, victim, "another")
    assert minted.returncode == 0, minted.stderr
    answer = node.call_gateway(
        platform, "/v1/grants", grant_request(platform), minted.stdout.strip(), inside=victim
    )
    assert answer.status == 401


def mint(platform: Platform, pod: node.RunningPod, audience: str) -> Any:
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod.name}"]
    return platform.cluster.kubectl.run(
        "create",
        "token",
        "securetrain-job",
        "-n",
        NAMESPACE,
        f"--audience={audience}",
        *bound,
        f"--bound-object-uid={pod.uid}",
        f"--as={EDITOR}",
    )


@pytest.mark.parametrize(
    "attempt",
    [
        ["exec", "POD", "--", "cat", "/proc/1/environ"],
        ["attach", "POD"],
        ["debug", "POD", "--image=localhost/pause:1", "--profile=restricted"],
        ["set", "image", "pod/POD", "trainer=localhost/pause:1"],
        ["label", "pod", "POD", "securetrain.dev/job-"],
    ],
    ids=lambda attempt: attempt[0],
)
def test_nobody_touches_the_running_pod(
    platform: Platform, victim: node.RunningPod, attempt: list[str]
) -> None:
    arguments = [part.replace("POD", victim.name) for part in attempt]
    result = platform.cluster.kubectl.run("-n", NAMESPACE, *arguments)
    assert result.returncode != 0
    assert "securetrain" in result.stderr, result.stderr


def test_an_imitation_in_another_namespace_gets_403(platform: Platform) -> None:
    answer = call_gateway_from(platform, "thief", GATEWAY_NAME)
    assert (answer.status, answer.reason) == (403, "NotOurPod")


def test_an_imitation_in_the_namespace_is_not_even_made(
    platform: Platform, victim: node.RunningPod
) -> None:
    body = imitation(platform, victim, "nothing")
    result = platform.cluster.kubectl.run("apply", "-f", "-", stdin=json.dumps(body))
    assert result.returncode != 0
    assert "only the Job controller" in result.stderr, result.stderr


IMITATIONS = {
    "image": "spec.containers[0].image: differs",
    "container": "spec.containers: has 2 entries",
    "env": "spec.containers[0].env: has 2 entries",
    "nothing": "metadata.labels.job-name: is missing",
}
"""What is changed in a copy of the victim, and what the gateway says of it."""


@pytest.fixture(scope="module")
def answers(platform: Platform, victim: node.RunningPod) -> dict[str, node.Answer]:
    """What the gateway answers to each imitation, all of which run at once."""
    kubectl = platform.cluster.kubectl
    bodies = [imitation(platform, victim, change) for change in IMITATIONS]
    with without_guard(platform, "securetrain-pod-create", victim):
        kubectl.apply(*bodies)
    try:
        pods = {
            change: node.running_pod(platform, NAMESPACE, f"imitation={change}")
            for change in IMITATIONS
        }
        request = grant_request(platform)
        return {
            change: node.call_gateway(platform, "/v1/grants", request, pod.token, inside=pod)
            for change, pod in pods.items()
        }
    finally:
        names = [body["metadata"]["name"] for body in bodies]
        kubectl("delete", "pod", *names, "-n", NAMESPACE, "--grace-period=0", "--force")


@pytest.mark.parametrize("change", IMITATIONS)
def test_without_the_guard_an_imitation_gets_403(
    platform: Platform, answers: dict[str, node.Answer], change: str
) -> None:
    """Same account, audience, owner and labels of ours; one thing differs, or nothing."""
    assert (answers[change].status, answers[change].reason) == (403, "NotOurPod")
    is_logged(platform, COPY + change, IMITATIONS[change])


def is_logged(platform: Platform, pod: str, why: str) -> None:
    """Wait until the operator's log says why it refused a call by a pod."""
    since = ["-n", OPERATOR_NAMESPACE, "--since=15m"]

    def told() -> bool:
        log = platform.cluster.kubectl("logs", "deploy/securetrain-operator", *since)
        lines = (line for line in log.splitlines() if "gateway.refused" in line and pod in line)
        return any(why in line for line in lines)

    eventually(told, f"{pod} was refused: {why}")


def imitation(platform: Platform, victim: node.RunningPod, change: str) -> dict[str, Any]:
    """A copy of the victim with its labels, but for those by which the Job controller counts."""
    pod: dict[str, Any] = node.get(platform, "pod", NAMESPACE, victim.name)
    ours = {key: value for key, value in pod["metadata"]["labels"].items() if "securetrain" in key}
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    container = spec["containers"][0]
    if change == "image":
        container["image"] = platform.images["operator"]
    if change == "container":
        spec["containers"].append({**copy.deepcopy(container), "name": "second"})
    if change == "env":
        container["env"].append({"name": "PYTHONPATH", "value": "/output"})
    container["command"] = ["/opt/venv/bin/python", "-c", "import time; time.sleep(600)"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": COPY + change,
            "namespace": NAMESPACE,
            "labels": {**ours, "imitation": change},
            "ownerReferences": [{**pod["metadata"]["ownerReferences"][0]}],
        },
        "spec": spec,
    }


def test_the_victim_trains_on(platform: Platform, progress_before: str) -> None:
    eventually(
        lambda: node.progress(platform, NAMESPACE, JOB) != progress_before, "progress", seconds=180
    )


def test_without_the_guard_an_ephemeral_container_shuts_its_pod_out(
    platform: Platform, patched: node.RunningPod, victim: node.RunningPod
) -> None:
    """The real pod with its real token, from its own address: but not as it was launched."""
    attempt = ["debug", patched.name, "--image=localhost/pause:1", "--profile=restricted"]
    with without_guard(platform, "securetrain-pod-frozen", victim):
        platform.cluster.kubectl("-n", NAMESPACE, *attempt, "--attach=false")
    request = grant_request(platform)
    answer = node.call_gateway(platform, "/v1/grants", request, patched.token, inside=patched)
    assert (answer.status, answer.reason) == (403, "NotOurPod")
    is_logged(platform, patched.name, "ephemeralContainers")


def test_without_the_guard_an_image_is_patched_and_back_in_the_same_pod(
    platform: Platform, patched: node.RunningPod, patched_and_back: None
) -> None:
    """What becomes of its job is told among the outcomes."""
    metadata = node.get(platform, "pod", NAMESPACE, patched.name)["metadata"]
    assert metadata["uid"] == patched.uid
    assert metadata["generation"] > 2


def test_a_decryption_past_the_gateway_shows_in_vaults_log(platform: Platform) -> None:
    """The operator's login was used above, while the victim ran, for what no record explains."""
    key, log = outcomes.signing_key(platform), platform.cluster.openbao.audit_log
    verified = outcomes.verify_trail(platform, JOB, key, log)
    assert verified.returncode == ExitCode.INTEGRITY
    assert "for no audit record" in verified.stderr
