"""An output volume without room: named, and nothing half-written is left. On a real small tmpfs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = """
import os, sys
from pathlib import Path
from securetrain.errors import StorageFull
from securetrain_trainer.store import Place, open_folder
place = Place.of(sys.argv[1] + "/models/m1", "uid-1")
try:
    with place.started():
        with open_folder(f"{place.parent}/{place.staging}") as folder:
            folder.write("policy.json", b"{}")
            folder.write("weights.safetensors.sealed", bytes(1 << 20))
except StorageFull as error:
    print(int(error.exit_code), error, os.listdir(place.parent))
"""
MOUNT = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'


def test_a_full_volume_is_named_and_the_staging_folder_goes(tmp_path: Path) -> None:
    """In a mount name space of its own, so that it needs no cleaning up."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    shell = ["/bin/sh", "-c", MOUNT, "sh", str(tmp_path), sys.executable, TRAIN]
    done = subprocess.run(
        ["unshare", *user, "--mount", *shell],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/training_image"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, said = done.stdout.strip().split(" ", 1)
    assert code == "13"
    assert "weights.safetensors.sealed cannot be written: no room is left" in said
    assert said.endswith("[]")
