"""One training run that many tests look at, and copies of it to do harm to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from securetrain.api.gateway import RunSpec
from securetrain.api.names import Purpose
from securetrain_trainer.certify import run_certification
from support.trainer_kit import UID, FakeOperator, GivenKeys, run_spec, signed

Files = dict[str, bytes]


class Trained:
    """What the fixture made."""

    def __init__(self, root: Path, keys: GivenKeys, operator: FakeOperator) -> None:
        self.root, self.keys, self.operator = root, keys, operator

    def copy(self, root: Path) -> Path:
        """A copy to do harm to."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return staging(root)

    def certify_spec(self, root: Path, **changes: Any) -> RunSpec:
        """The certify run of the copy."""
        fields = {"artefacts": self.operator.files, **changes}
        return run_spec(root, Purpose.CERTIFY, **fields)

    def certify(self, root: Path, answer: Any = signed, **changes: Any) -> FakeOperator:
        """Certify the copy."""
        operator = FakeOperator(answer)
        run_certification(self.certify_spec(root, **changes), self.keys, operator, lambda: 1)
        return operator


def staging(root: Path) -> Path:
    return root / "out" / f"model.{UID}.partial"


def contents(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
