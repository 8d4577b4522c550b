"""A real S3 server: Versity's gateway over a plain folder, with its own CA and one login."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from localcluster import binaries, https, ports
from localcluster.pki import Authority, write_private
from localcluster.process import Process, wait_until
from securetrain.secret import Secret

_HOSTS = ("localhost", "127.0.0.1", "10.244.0.1")
_HEALTH = "/-/health"


class VersityGateway:
    """The server of one state folder.

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
        self.process = Process("versitygw", self._state, die_with_parent=die_with_parent)

    @property
    def address(self) -> str:
        """The server's URL on the loopback interface."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The port of every address that it listens on."""
        chosen = ports.remembered(self._state / "ports.json", ("s3",))
        return self._port or chosen["s3"]

    @property
    def ca_file(self) -> Path:
        """PEM file of the CA that signed the server's certificate."""
        return self._state / "pki" / "s3-ca.crt"

    @property
    def ca_pem(self) -> str:
        """The CA that signed the server's certificate."""
        return self.ca_file.read_text()

    @property
    def objects(self) -> Path:
        """The folder with a folder for each bucket, in which each object is a file."""
        return self._state / "objects"

    @property
    def access_key(self) -> str:
        """The login's name."""
        return "local-admin"

    @property
    def secret_key(self) -> Secret:
        """The login's secret, made on first use."""
        file = self._state / "secret"
        if not file.exists():
            write_private(file, secrets.token_urlsafe(30).encode())
        return Secret.from_text(file.read_text())

    def start(self) -> None:
        """Starts the server and waits until it serves; harmless when it runs already.

        Raises:
            ClusterError: it does not come up; the message ends with its log's last lines.
        """
        metadata = self._state / "metadata"
        for folder in (self.objects, metadata):
            folder.mkdir(parents=True, exist_ok=True)
        authority = Authority(self._state / "pki", "s3-ca")
        hosts = tuple(dict.fromkeys((*_HOSTS, *self._listen)))
        pair = authority.issue("s3", common_name="s3", hosts=hosts)
        listen = [f"--port={host}:{self.port}" for host in self._listen]
        tls = [f"--cert={pair.certificate}", f"--key={pair.key}"]
        # Metadata beside the objects: not every file system of a machine has extended attributes.
        backend = ["posix", f"--sidecar={metadata}", str(self.objects)]
        self.process.start(
            [binaries.versitygw(), *listen, *tls, f"--health={_HEALTH}", "--keep-alive", *backend],
            env={
                "ROOT_ACCESS_KEY_ID": self.access_key,
                "ROOT_SECRET_ACCESS_KEY": self.secret_key.reveal_text(),
            },
        )
        wait_until(self._serves, "the S3 server's answer", every=0.02, processes=[self.process])

    def stop(self) -> None:
        """Stops the server and keeps its objects."""
        self.process.stop()

    def _serves(self) -> bool:
        return https.request("GET", f"{self.address}{_HEALTH}", ca=self.ca_file)[0] == 200
