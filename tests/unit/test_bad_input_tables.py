"""The tables of wrong input are long enough, and each row is wrong in one way only."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from securetrain.api.types import JobSpec
from securetrain.sealed.policy import parse_policy
from securetrain.sealed.strict_json import dump
from support import bad_files, samples
from support.bad_files import Wrong
from support.bad_inputs import REFUSED, TOLD, Told
from support.sealed_folders import POLICY

AT_LEAST = 40
FILES = {
    "policies": bad_files.POLICIES,
    "manifests": bad_files.FOLDERS,
    "settings": bad_files.SETTINGS,
    "values": bad_files.VALUES,
    "job files": bad_files.JOBS,
}
JOBS = {"refused jobs": REFUSED, "jobs told about": TOLD}
TABLES = {**JOBS, **FILES, "commands": [row for *_, row in bad_files.COMMANDS]}
NEEDED = {
    "too-late": "datasets/0/uri",  # something has to be waited for
    "no-storage-connection": "datasets/0/uri",  # only an s3 URI may name one
    "too-wide": "model/architecture",  # the other one has no such layers
    "too-easy": "datasets/0/uri",  # the dataset whose policy asks for more
}
"""Rows that change a second field, which is right, so that the first one can be wrong."""


def test_there_are_at_least_forty_jobs_policies_manifests_and_settings() -> None:
    assert sum(len(TABLES[kind]) for kind in (*JOBS, *FILES)) >= AT_LEAST
    assert len(REFUSED) >= AT_LEAST
    assert {kind for kind, table in TABLES.items() if len(table) < 10} == set()


@pytest.mark.parametrize("kind", TABLES)
def test_no_row_is_there_twice(kind: str) -> None:
    names = Counter(row.name for row in TABLES[kind])
    said = Counter(repr(row).replace(row.name, "") for row in TABLES[kind])
    assert (max(names.values()), max(said.values())) == (1, 1)


@pytest.mark.parametrize("row", TOLD, ids=lambda row: row.name)
def test_a_job_that_the_operator_tells_about_is_wrong_in_one_way(row: Told) -> None:
    """Or in none: then it is the namespace, or what lies on the volume, that is wrong."""
    assert len(row.changes.keys() - {NEEDED.get(row.name)}) <= 1


@pytest.mark.parametrize(
    "row", [row for table in FILES.values() for row in table], ids=lambda row: row.name
)
def test_a_wrong_file_is_wrong_in_one_way(row: Wrong) -> None:
    """A file that is given as text is wrong as a whole."""
    assert isinstance(row.change, str) or len(row.change) == 1


def test_what_the_rows_are_bent_from_is_right() -> None:
    """Of datasets, settings and values other tests say so: they are what everything runs with."""
    parse_policy(dump(POLICY))
    JobSpec.model_validate_json(json.dumps(samples.training_job()["spec"]))
