"""YAML that people write: a job, and a policy."""

from __future__ import annotations

from fuzz.target import Target, file_of
from securetrain.cli.manifests import read_job
from securetrain.cli.policies import read_policy
from securetrain.errors import InvalidInput
from securetrain.sealed.policy import parse_policy


def parse(data: bytes) -> None:
    with file_of(data, "given.yaml") as path:
        try:
            sealed, policy = read_policy(path)
        except InvalidInput:
            read_job(path)
        else:
            assert parse_policy(sealed) == policy


TARGET = Target(parse, (InvalidInput,))
