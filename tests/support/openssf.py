"""OpenSSF's own verifier of model signatures, as its own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def accepts(folder: Path, public_key: Path) -> bool:
    """Whether `model_signing verify key` accepts a model's folder."""
    command = [str(Path(sys.executable).with_name("model_signing")), "verify", "key", str(folder)]
    options = [f"--signature={folder / 'model.sig'}", f"--public_key={public_key}"]
    options.append("--no-ignore-git-paths")
    return subprocess.run([*command, *options], capture_output=True, check=False).returncode == 0
