"""`make demo`: ten thousand real digits are sealed, trained on, certified and signed.

Then three thefts are tried, and fail.

Every step is a command that people use, shown before it runs. What it makes stays in build/demo;
the cluster stays up for a look around. Run again, it starts over with the same cluster; `make
clean` stops it and removes build/, while .venv and the cache stay.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from localcluster import preparation
from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.imitation import call_gateway_from
from localcluster.platform import GATEWAY_NAME, ROOT, Platform
from securetrain.errors import ExitCode, SecuretrainError

WORK: Final = ROOT / "build" / "demo"
DIGITS: Final = ROOT / "examples" / "digits" / "digits.npz"
NAMESPACE: Final = "team-a"
JOB: Final = "digits-v7"
OUTCOMES: Final = (
    "dataset",
    "edited",
    "flipped",
    "model",
    "volumes",
    "audit.jsonl",
    "policy.json",
    "job.yaml",
)


class Demo:
    """The story, step by step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step = 0
        self._started = time.monotonic()
        self._platform: Platform | None = None

    def run(self) -> None:
        """Tell the whole story; raises ClusterError if a step does not end as it must."""
        with self._chapter("A real one-node Kubernetes and an OpenBao server come up"):
            preparation.prepare()
            cluster = Cluster()
            cluster.up()
            self._platform = Platform(cluster, WORK)
            self._start_over()
        with self._chapter("The platform admin sets Vault up and installs the operator"):
            self._install()
        with self._chapter("The data owner seals 10,000 handwritten digits under a policy"):
            self._seal()
        with self._chapter("An ML engineer submits a SecureTrainingJob and watches it"):
            self._train()
        with self._chapter("An auditor verifies the model with a public key and two logs"):
            self._verify()
        with self._chapter("Three thefts are tried"):
            self._steal_keys_by_imitation()
            self._loosen_the_policy()
            self._flip_a_byte()
        self._close()

    @property
    def platform(self) -> Platform:
        """The platform, once it is up."""
        if self._platform is None:
            raise ClusterError("the cluster is not up.")
        return self._platform

    def _start_over(self) -> None:
        """Remove what an earlier run left in the namespace and in build/demo."""
        self.platform.remove_namespaces(NAMESPACE, "thief")
        for name in OUTCOMES:
            path = WORK / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        WORK.mkdir(parents=True, exist_ok=True)

    def _install(self) -> None:
        platform = self.platform
        keys = f"--dataset-kek {NAMESPACE}-digits --model-kek {NAMESPACE}-models"
        self._show(
            f"securetrain vault setup --namespace {NAMESPACE} {keys}"
            f" --gateway-name {GATEWAY_NAME} --apply"
        )
        platform.set_vault_up(NAMESPACE)
        self._show(
            "helm upgrade --install securetrain charts/securetrain"
            " -n securetrain -f values.yaml --wait"
        )
        platform.install()
        platform.open_namespace(NAMESPACE)
        pem = platform.run("securetrain", "vault", "public-key").stdout
        (WORK / "signing-key.pem").write_text(pem)
        self._link("kubeconfig", platform.cluster.control_plane.kubeconfig)
        self._link("vault-audit.log", platform.cluster.openbao.audit_log)
        self._command(f"securetrain doctor -n {NAMESPACE}")

    def _seal(self) -> None:
        self._command(
            f"securetrain new policy --namespace {NAMESPACE}"
            f" --output-kek {NAMESPACE}-models > policy.json"
        )
        self._command(
            f"securetrain seal {DIGITS} dataset --kek {NAMESPACE}-digits --policy policy.json"
        )
        self._show("the sealed folder is copied to the volume of the claim `datasets`")
        self.platform.hand_over(WORK / "dataset", NAMESPACE, "digits")

    def _train(self) -> None:
        options = "--architecture cnn --epochs 6 --gate 'accuracy>=0.97'"
        places = f"--dataset pvc://datasets/digits --output-uri pvc://models/{JOB}"
        places += f" --kek {NAMESPACE}-models"
        self._command(
            f"securetrain new job --name {JOB} -n {NAMESPACE} {places} {options} > job.yaml"
        )
        self._command(f"securetrain submit job.yaml -n {NAMESPACE} --watch")
        self._command(f"kubectl get stj -n {NAMESPACE}")
        shutil.copytree(self.platform.volume(NAMESPACE, "models") / JOB, WORK / "model")

    def _verify(self) -> None:
        self._command("securetrain verify model --key signing-key.pem")
        self._command(f"securetrain audit show {JOB} -n {NAMESPACE} --raw > audit.jsonl")
        log = "--vault-log vault-audit.log --vault-device file"
        self._command(f"securetrain audit verify {JOB} -n {NAMESPACE} --key signing-key.pem {log}")

    def _steal_keys_by_imitation(self) -> None:
        self._say("1. A pod with our image, our account's name and our audience asks for the keys.")
        answer = call_gateway_from(self.platform, "thief", GATEWAY_NAME)
        self._expect(
            answer.status == 403, f"the gateway answered {answer.status} ({answer.reason})"
        )

    def _loosen_the_policy(self) -> None:
        self._say("2. Somebody edits the owner's policy in storage: it shall never expire.")
        edited = WORK / "edited"
        shutil.copytree(WORK / "dataset", edited)
        policy = json.loads((edited / "policy.json").read_text())
        (edited / "policy.json").write_text(
            json.dumps({**policy, "notAfter": "2099-01-01T00:00:00Z"})
        )
        self.platform.hand_over(edited, NAMESPACE, "digits-edited")
        shutil.rmtree(edited)
        job = (WORK / "job.yaml").read_text().replace("datasets/digits", "datasets/digits-edited")
        (WORK / "edited-job.yaml").write_text(job.replace(JOB, "digits-stolen"))
        code = self._command(
            f"securetrain submit edited-job.yaml -n {NAMESPACE} --watch", allowed=True
        )
        self._expect(code == ExitCode.INTEGRITY, f"Vault refused the keys; exit code {code}")

    def _flip_a_byte(self) -> None:
        self._say("3. One bit of the stored model is flipped.")
        stolen = WORK / "flipped"
        shutil.copytree(WORK / "model", stolen)
        weights = stolen / "weights.safetensors.sealed"
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
        code = self._command("securetrain verify flipped --key signing-key.pem", allowed=True)
        shutil.rmtree(stolen)
        self._expect(code == ExitCode.INTEGRITY, f"verify found it; exit code {code}")

    def _close(self) -> None:
        job = json.loads(
            self.platform.cluster.kubectl("get", "stj", JOB, "-n", NAMESPACE, "-o", "json")
        )
        status = job["status"]
        metrics = {metric["name"]: metric["value"] for metric in status["model"]["metrics"]}
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        self._console.rule(f"[bold]{status['phase']}")
        places = {
            "phase": status["phase"],
            "test accuracy": metrics["accuracy"],
            "sealed model": "build/demo/model/",
            "report": "build/demo/model/report.html",
            "signature": "build/demo/model/model.sig",
            "audit trail": "build/demo/audit.jsonl, build/demo/vault-audit.log",
            "time": f"{minutes} min {seconds} s",
        }
        for name, value in places.items():
            self._console.print(f"{name:<14} [bold]{escape(value)}")
        self._console.print("\nTry next:")
        for command in (
            "export KUBECONFIG=build/demo/kubeconfig PATH=.venv/bin:$PATH",
            f"securetrain audit show {JOB} -n {NAMESPACE}",
            "securetrain inspect build/demo/dataset --deep",
            "make clean            # stops the cluster, removes build/; .venv and the cache stay",
        ):
            self._console.print(f"  {command}", soft_wrap=True)

    @contextmanager
    def _chapter(self, title: str) -> Iterator[None]:
        self._step += 1
        self._console.rule(f"[bold]{self._step}. {title}", align="left")
        yield

    def _say(self, text: str) -> None:
        self._console.print(text)

    def _show(self, command: str) -> None:
        self._console.print(f"[dim]$ {escape(command)}", soft_wrap=True)

    def _command(self, command: str, *, allowed: bool = False) -> int:
        """Show and run a command in build/demo; a failure ends the demo unless it is allowed."""
        self._show(command.replace(f"{ROOT}/", "../../"))
        code = subprocess.run(
            ["/bin/bash", "-c", command], cwd=WORK, env=self.platform.environment, check=False
        ).returncode
        if code and not allowed:
            raise ClusterError(f"`{command}` ended with {code}.")
        return code

    def _expect(self, held: bool, what: str) -> None:
        if not held:
            raise ClusterError(f"the theft was not stopped as it must be: {what}.")
        self._console.print(f"[green]✓ stopped:[/] {escape(what)}")

    def _link(self, name: str, target: Path) -> None:
        link = WORK / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def main() -> int:
    """Run the demo; an error is one line, and Ctrl-C leaves nothing that a next run minds."""
    console = Console(highlight=False)
    try:
        Demo(console).run()
    except SecuretrainError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        return int(error.exit_code)
    except KeyboardInterrupt:
        console.print("\nStopped. `make demo` starts over, `make clean` removes build/.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
