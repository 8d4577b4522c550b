"""Where models are written, prepared by somebody who writes to the same claim.

What is there already, and what is planted or changed under way, is refused with a reason or taken
away; it never leads a read or a write elsewhere, and never ends as a bug.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from securetrain.api.names import Purpose
from securetrain.errors import ExitCode, GatewayUnavailable, SecuretrainError
from securetrain.signing.verify import verify_model
from securetrain_trainer.store import Place
from support.hostile import Pod, as_nobody, pod, tree
from support.sealed_folders import sealed_model
from support.signed_models import Job, Signer, new_job
from support.trainer_kit import FakeOperator, seal_dataset

__all__ = ["pod"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("output")
    return new_job(root, seal_dataset(root / "data", records=20))


@pytest.fixture
def job(begun: Job, tmp_path: Path) -> Job:
    """A job that has not begun."""
    return begun.copy(tmp_path / "storage")


def train(pod: Pod, job: Job, **changes: Any) -> tuple[int, str, str]:
    return pod.run(job.run(**changes), lambda _run: job.train(**changes))


def certify(pod: Pod, job: Job, **changes: Any) -> tuple[int, str, str]:
    operator = FakeOperator(Signer())
    run = job.run(Purpose.CERTIFY, **changes)
    return pod.run(run, lambda run: job.certify_run(run, operator))


def precious(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "data.csv").write_text("precious")
    return path


def model(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    sealed_model(path)


def a_link_to_a_model(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(sealed_model(path.parents[1] / "elsewhere"))


def a_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("x")


def a_pipe(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def a_model_json_that_is_a_pipe(path: Path) -> None:
    path.mkdir(parents=True)
    os.mkfifo(path / "model.json")


def a_model_json_that_is_endless(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "model.json").touch()
    os.truncate(path / "model.json", 1 << 40)


TAKEN: tuple[tuple[Callable[[Path], object], bool], ...] = (
    (precious, False),
    (model, True),
    (a_link_to_a_model, False),
    (a_file, False),
    (a_pipe, False),
    (a_model_json_that_is_a_pipe, False),
    (a_model_json_that_is_endless, False),
)
"""What has the final name, and whether `ifExists: Replace` may replace it."""


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(("what", "replaceable"), TAKEN, ids=lambda it: getattr(it, "__name__", ""))
def test_a_taken_output_is_refused_by_both_phases_before_a_key_is_asked_for(
    job: Job, pod: Pod, what: Callable[[Path], object], replaceable: bool, replace: bool
) -> None:
    job.train()
    (job.root / "out").rename(job.root / "aside")
    what(job.final)
    (job.root / "aside" / job.staging.name).rename(job.staging)
    asked, before = job.keys.asked, job.final.lstat().st_ino
    for phase in (certify, train):
        code, reason, message = phase(pod, job, replace_output=replace)
        if replace and replaceable:
            assert code == ExitCode.OK, message
            return
        assert (code, reason) == (ExitCode.CONFIGURATION, "OutputExists"), message
        assert "output.uri: " in message
        assert "'model'" in message
        assert job.final.lstat().st_ino == before
        assert job.keys.asked == asked


@pytest.mark.parametrize("kind", ["files", "links", "pipes", "read-only", "a file", "a link"])
def test_a_staging_folder_that_was_planted_is_taken_away_and_leads_nowhere(
    job: Job, pod: Pod, kind: str
) -> None:
    outside = precious(job.root / "outside")
    before = tree(outside)
    planted = job.staging
    planted.parent.mkdir()
    if kind == "a file":
        planted.write_text("x")
    elif kind == "a link":
        planted.symlink_to(outside)
    else:
        (planted / "inner").mkdir(parents=True)
    names = ("model.json", ".model.json.tmp", "key.json", "inner/deep", "saved_model.pb")
    for name in names if planted.is_dir() and not planted.is_symlink() else ():
        if kind == "links":
            (planted / name).symlink_to(outside / "data.csv")
        elif kind == "pipes":
            os.mkfifo(planted / name)
        else:
            (planted / name).write_text("x")
    if kind == "read-only":
        (planted / "inner").chmod(0o500)
        planted.chmod(0o500)
    assert train(pod, job)[0] == ExitCode.OK
    assert certify(pod, job)[0] == ExitCode.OK
    assert tree(outside) == before
    assert {path.name for path in job.final.parent.iterdir()} == {"model"}
    assert "saved_model.pb" not in tree(job.final)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("locked", ["staging", "inside staging", "the output", "final", "parent"])
def test_folders_that_the_pod_may_not_touch_are_told_as_such(public: Path, locked: str) -> None:
    """Somebody of another user planted them; the pod has user and group 10001."""
    place = Place.of(str(public / "out" / "model"), "uid-1")
    out, staging, final = public / "out", public / "out" / place.staging, public / "out" / "model"
    out.mkdir()
    out.chmod(0o777)
    if locked in ("staging", "inside staging"):
        (staging / "inner").mkdir(parents=True)
        (staging / "inner" / "file").touch()
        staging.chmod(0o555 if locked == "staging" else 0o777)
        (staging / "inner").chmod(0o555)
        out.chmod(0o1777)
    elif locked == "final":
        final.mkdir(mode=0o700)
    elif locked == "the output":
        out.chmod(0o555)
    else:
        out.chmod(0o700)
    before = tree(public)

    def phase() -> None:
        place.check_free(replace=True)
        place.start()

    pod = Pod(pytest.MonkeyPatch(), public / "unused")
    with as_nobody():
        code, reason, message = pod.outcome(phase)
    assert (code, reason) == (ExitCode.CONFIGURATION, "BadConfiguration"), message
    assert "cannot be used" in message or "may not be read" in message
    assert str(out) in message
    if locked != "inside staging":
        assert tree(public) == before


# Changes under way, at the moment when the pod is about to write.


def becomes_a_folder(staging: Path) -> None:
    (staging / "weights.safetensors.sealed" / "inner").mkdir(parents=True)


def is_gone(staging: Path) -> None:
    shutil.rmtree(staging)


def is_a_link(staging: Path) -> None:
    staging.rename(staging.parent / "aside")
    staging.symlink_to(precious(staging.parents[1] / "outside"))


def is_a_file(staging: Path) -> None:
    shutil.rmtree(staging)
    staging.write_text("x")


@pytest.mark.parametrize("change", [becomes_a_folder, is_gone, is_a_link, is_a_file])
def test_a_staging_folder_that_changes_while_training_ends_the_pod_with_12(
    job: Job, pod: Pod, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    start = Place.start

    def start_and_lose(place: Place) -> None:
        start(place)
        change(job.staging)

    monkeypatch.setattr(Place, "start", start_and_lose)
    code, reason, message = train(pod, job)
    assert (code, reason) == (ExitCode.INTEGRITY, "IntegrityError"), message
    assert job.staging.name in message
    if change is is_a_link:
        assert tree(job.root / "outside").keys() == {"data.csv"}
    assert not job.final.exists()


def a_folder_has_the_final_name(job: Job) -> None:
    precious(job.final)


def the_staging_folder_is_gone(job: Job) -> None:
    shutil.rmtree(job.staging)


def the_staging_folder_is_a_link(job: Job) -> None:
    job.staging.rename(job.root / "moved")
    job.staging.symlink_to(precious(job.root / "outside"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (a_folder_has_the_final_name, "OutputExists"),
        (the_staging_folder_is_gone, "IntegrityError"),
        (the_staging_folder_is_a_link, "IntegrityError"),
    ],
)
def test_what_changes_while_it_is_signed_is_never_a_bug_and_never_verifies(
    job: Job, pod: Pod, change: Callable[[Job], None], reason: str
) -> None:
    job.train()
    signer = Signer(meanwhile=lambda: change(job))
    run, operator = job.run(Purpose.CERTIFY), FakeOperator(signer)
    code, told, message = pod.run(run, lambda run: job.certify_run(run, operator))
    assert told in (reason, ""), message
    assert code in (ExitCode.INTEGRITY, ExitCode.CONFIGURATION, ExitCode.OK)
    assert code != ExitCode.OK or change is the_staging_folder_is_a_link
    with pytest.raises(SecuretrainError):
        verify_model(job.final, signer.public_pem)
    if (job.root / "outside").exists():
        assert tree(job.root / "outside").keys() == {"data.csv"}


def test_a_pod_that_gets_no_keys_leaves_the_folder_of_one_that_has_them_alone(
    job: Job, pod: Pod
) -> None:
    class Denied(type(job.keys)):  # type: ignore[misc]
        def acquire(self, _run: object, _dataset: object) -> object:
            raise GatewayUnavailable("not recorded")

    job.staging.mkdir(parents=True)
    (job.staging / "model.json").write_text("of the pod that trains")
    job.keys = Denied(job.keys.deks, job.keys.model)
    assert train(pod, job)[0] == ExitCode.TRY_AGAIN
    assert (job.staging / "model.json").read_text() == "of the pod that trains"
