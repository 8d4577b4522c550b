"""Vault's own account of every secret: a second audit device that hides nothing.

Only with it does a test know the wrapping tokens and Vault logins of pods and operator, which
nobody else ever sees. Its file lies apart from all places that are searched for them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcluster.openbao import OpenBao
from localcluster.process import wait_until

DEVICE = "raw"


@dataclass(frozen=True)
class RawAudit:
    """The device's file: one JSON object per request and per answer."""

    file: Path

    def answers(self) -> Iterator[dict[str, Any]]:
        """Every answer, in order."""
        for line in self.file.read_text().rpartition("\n")[0].splitlines():
            entry = json.loads(line)
            if entry["type"] == "response":
                yield entry

    def wrapping_tokens(self) -> set[str]:
        """Every response-wrapping token that was made."""
        infos = (answer.get("response", {}).get("wrap_info") for answer in self.answers())
        return {str(info["token"]) for info in infos if info and "token" in info}

    def logins(self) -> set[str]:
        """Every client token that a login answered."""
        return {
            str(answer["response"]["auth"]["client_token"])
            for answer in self.answers()
            if answer["request"]["path"].endswith("/login") and "auth" in answer["response"]
        }

    def unwrapped(self) -> set[bytes]:
        """Every plaintext that was unwrapped."""
        found = (
            answer["response"].get("data", {}).get("plaintext", "")
            for answer in self.answers()
            if answer["request"]["path"] == "sys/wrapping/unwrap" and "response" in answer
        )
        return {base64.b64decode(text) for text in found if text}


@contextmanager
def raw_audit(openbao: OpenBao, file: Path) -> Iterator[RawAudit]:
    """Add the device to a running server and take it away again; `file` goes with it."""
    before = openbao.config_file.read_text()
    if f"{DEVICE}/" in openbao.api("GET", "/v1/sys/audit"):  # a run was killed
        _load(openbao, before, present=False)
    config = json.loads(before)
    options = {"file_path": str(file), "log_raw": "true"}
    config["audit"].append({"type": "file", "path": DEVICE, "options": options})
    _load(openbao, json.dumps(config), present=True)
    try:
        yield RawAudit(file)
    finally:
        _load(openbao, before, present=False)
        file.unlink()


def _load(openbao: OpenBao, config: str, *, present: bool) -> None:
    openbao.config_file.write_text(config)
    openbao.reload()
    wait_until(
        lambda: (f"{DEVICE}/" in openbao.api("GET", "/v1/sys/audit")) is present,
        "OpenBao's audit devices",
        seconds=60,
        processes=[openbao.process],
    )
