"""Sealed folders to be sent, an owner's S3 login in files, and the command in its own process."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from securetrain.sealed.dataset import Task
from securetrain.sealed.sources import ImageSource
from securetrain.sealed.writer import SealOptions, seal
from support.s3_server import S3Server
from support.trainer_kit import Wrapper, policy

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "from securetrain.cli.main import run; run()"
MEASURED = """
import resource, sys
from securetrain.cli.main import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
SIDE = 512
RECORD = SIDE * SIDE


def sealed(folder: Path, megabytes: int, *, shard_bytes: int = 1 << 20, seed: int = 1) -> Path:
    """A sealed dataset of noise, of about so many megabytes."""
    random = np.random.default_rng(seed)
    count = (megabytes << 20) // RECORD
    images = random.integers(0, 256, (count, SIDE, SIDE, 1), np.uint8)
    labels = (np.arange(count) % 2).astype(np.int64)
    source = ImageSource(
        images, labels, None, Task(kind="classification", classes=2, labels=("a", "b"))
    )
    seal(source, folder, SealOptions("digits", policy(), shard_bytes=shard_bytes), Wrapper())
    return folder


@dataclass(frozen=True)
class Owner:
    """Somebody at a command line with AWS's files in their home."""

    server: S3Server
    home: Path

    @classmethod
    def at_home(cls, server: S3Server, home: Path, secret: str = "") -> Owner:
        """Write ~/.aws as `aws configure` does."""
        (home / ".aws").mkdir(parents=True)
        (home / ".aws/credentials").write_text(
            f"[default]\naws_access_key_id = {server.access_key}\n"
            f"aws_secret_access_key = {secret or server.secret_key.reveal_text()}\n"
        )
        (home / ".aws/config").write_text(
            f"[default]\nendpoint_url = {server.endpoint}\nca_bundle = {server.ca_file}\n"
        )
        return cls(server, home)

    def start(self, *arguments: str, command: str = COMMAND) -> subprocess.Popen[str]:
        """Start the command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", command, *arguments],
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def peak(self, *arguments: str) -> int:
        """Most bytes that a process with the command had in memory; it must succeed."""
        with self.start(*arguments, command=MEASURED) as process:
            _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        return int(err.splitlines()[-1]) << 10

    def stored(self, bucket: str, prefix: str) -> dict[str, tuple[int, int]]:
        """The server's files below a prefix, and what is another when one is written anew.

        That is the inode and the time; either alone may be the same again.
        """
        folder = self.server.server.objects / bucket / prefix
        found = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
        return {
            str(path.relative_to(folder)): (status.st_ino, status.st_mtime_ns)
            for path, status in found
        }

    def settled(self, bucket: str, prefix: str) -> dict[str, tuple[int, int]]:
        """`stored`, once the server has done with what a killed sender had sent whole."""
        before: dict[str, tuple[int, int]] = {}
        while before != (now := self.stored(bucket, prefix)):
            before = now
            time.sleep(1.0)
        return now
