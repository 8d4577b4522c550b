"""The command line: `python -m localcluster up|down|status|prepare|images`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from localcluster import binaries, images, preparation
from localcluster.cluster import STATE, Cluster
from securetrain.errors import SecuretrainError


def main() -> int:
    """Runs one command; an error is one line that says what to do."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.command(arguments))
    except SecuretrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)


def _up(arguments: argparse.Namespace) -> int:
    cluster = Cluster(arguments.state)
    cluster.up()
    print(f"export KUBECONFIG={cluster.control_plane.kubeconfig}")
    print(f"export PATH={binaries.folder()}:$PATH")
    print(f"export VAULT_ADDR={cluster.openbao.address} VAULT_CACERT={cluster.openbao.ca_file}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    Cluster(arguments.state).down()
    return 0


def _status(arguments: argparse.Namespace) -> int:
    cluster = Cluster(arguments.state)
    for process in cluster.processes:
        print(f"{process.name:<20} {f'pid {process.pid}' if process.running else 'not running'}")
    return 0 if all(process.running for process in cluster.processes) else 1


def _images(arguments: argparse.Namespace) -> int:
    if arguments.load:
        references = images.load(Cluster(arguments.state).node.containerd)
    else:
        references = {name: image.reference for name, image in images.build().items()}
    for name, reference in references.items():
        print(f"{name:<10} {reference}")
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    preparation.prepare(tests=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m localcluster", description=__doc__)
    parser.add_argument("--state", type=Path, default=STATE, help="state folder (%(default)s)")
    commands = parser.add_subparsers(required=True)
    up = commands.add_parser("up", help="start the cluster, or what of it is not running")
    up.set_defaults(command=_up)
    for name, command, what in (
        ("down", _down, "stop everything; data and images stay in the state folder"),
        ("status", _status, "say which processes run; exit 1 unless all do"),
        ("prepare", _prepare, "compile all programs and build all images"),
    ):
        commands.add_parser(name, help=what).set_defaults(command=command)
    image = commands.add_parser("images", help="build the operator's and the trainer's image")
    image.add_argument("--load", action="store_true", help="also import them into the cluster")
    image.set_defaults(command=_images)
    return parser


if __name__ == "__main__":
    sys.exit(main())
