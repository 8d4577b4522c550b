"""The commands of docs/uploads.md, in order, with a real S3 server and a real Vault."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from localcluster.openbao import OpenBao
from localcluster.platform import ROOT
from securetrain.sealed.dataset import load_dataset
from support.pages import blocks
from support.s3_server import S3Server
from support.uploads import Owner

BUCKET = "team-a-data"


@pytest.fixture
def desk(openbao: OpenBao, s3_server: S3Server, tmp_path: Path) -> Mapping[str, str]:
    """What a reader of the page has: a KEK, a policy, a bucket, logins and the digits."""
    if "transit/" not in openbao.api("GET", "/v1/sys/mounts"):
        openbao.api("POST", "/v1/sys/mounts/transit", {"type": "transit"})
    openbao.api("POST", "/v1/transit/keys/team-a-digits", {"type": "aes256-gcm96"})
    s3_server.client.create_bucket(Bucket=BUCKET)
    Owner.at_home(s3_server, tmp_path)
    shutil.copy(ROOT / "examples/digits/digits.npz", tmp_path)
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), "/usr/bin", "/bin")),
        "VAULT_ADDR": openbao.address,
        "VAULT_CACERT": str(openbao.ca_file),
        "VAULT_TOKEN": openbao.root_token.reveal_text(),
    }
    policy = "securetrain new policy --namespace team-a --output-kek team-a-models > policy.json"
    subprocess.run(policy, shell=True, env=environment, cwd=tmp_path, check=True)
    return environment


def test_every_command_of_the_page_works(desk: Mapping[str, str], s3_server: S3Server) -> None:
    home = Path(desk["HOME"])
    told = []
    for block in blocks("docs/uploads.md"):
        result = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", block.script],
            cwd=home,
            env=dict(desk),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{block}\n{result.stdout}\n{result.stderr}"
        told.append(result.stdout)
    assert "0 files" in told[1]
    assert "uploaded  1 file ·" in told[2]
    copy = load_dataset(home / "copy")
    assert copy.keys == load_dataset(home / "digits.sealed").keys
    assert "vault:v2:" in copy.keys[next(iter(copy.keys))].wrapped
