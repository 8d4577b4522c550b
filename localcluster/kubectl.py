"""kubectl for one cluster, as a function."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcluster.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Runs kubectl against one kubeconfig.

    Attributes:
        program: the kubectl binary.
        kubeconfig: whom it speaks as, and to which cluster.
    """

    program: Path
    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output of a command that must succeed.

        Raises:
            ClusterError: kubectl failed; the message is its standard error.
        """
        result = self.run(*arguments, stdin=stdin)
        if result.returncode:
            shown = " ".join(arguments[:4])
            raise ClusterError(f"kubectl {shown}: {result.stderr.strip() or result.stdout.strip()}")
        return result.stdout

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command that may fail."""
        argv = [str(self.program), f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Applies objects on the server's side."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
