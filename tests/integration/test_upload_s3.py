"""`securetrain upload` and `download` on a real S3 server: whole or invisible, and resumable."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from securetrain.cli.depots import Reach, opened
from securetrain.cli.main import main
from securetrain.cli.storage_env import S3Options
from securetrain.errors import ExitCode
from securetrain.sealed.dataset import load_dataset
from securetrain.signing.verify import verify_model
from securetrain.storage.depot import ObjectDepot
from securetrain.storage.tags import is_opaque
from securetrain.storage.uri import parse_uri
from support.s3_server import S3Server
from support.signed_models import Signer, new_job
from support.trainer_kit import seal_dataset
from support.uploads import Owner, sealed

Say = Callable[..., dict[str, Any]]
UNHURRIED = """
import time
from securetrain.cli.main import run
from securetrain.storage.s3 import S3Store
send = S3Store.write_file
def unhurried(*arguments, **options):
    send(*arguments, **options)
    time.sleep(0.5)
S3Store.write_file = unhurried
run()
"""
"""The command with a rest after each file, so that it can be ended in the middle for sure."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 shards of about a mebibyte; tests that change it take a copy."""
    return sealed(tmp_path_factory.mktemp("sealed") / "noise", 48)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three or so shards."""
    return sealed(tmp_path_factory.mktemp("sealed") / "small", 4)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own login or CA."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def owner(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Owner:
    """An owner at home, in this process too."""
    owner = Owner.at_home(s3_server, tmp_path / "home")
    monkeypatch.setenv("HOME", str(owner.home))
    monkeypatch.chdir(owner.home)
    return owner


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command that must succeed; what it tells programs."""

    def run(*arguments: str) -> dict[str, Any]:
        code = main([*arguments, "--output", "json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        parsed: dict[str, Any] = json.loads(out)
        return parsed

    return run


@pytest.mark.usefixtures("owner")
def test_there_and_back_again(s3_server: S3Server, small: Path, tmp_path: Path, said: Say) -> None:
    bucket = s3_server.bucket()
    uri = f"s3://{bucket}/team/noise"
    sent = said("upload", str(small), uri)
    files = {str(path.relative_to(small)) for path in small.rglob("*") if path.is_file()}
    assert s3_server.names(bucket) == {f"team/noise/{name}" for name in files}
    assert sent["files"] == len(files)
    assert sent["kept"] == 0
    assert said("download", uri, str(tmp_path / "back"))["kind"] == "dataset"
    assert all(
        (tmp_path / "back" / name).read_bytes() == (small / name).read_bytes() for name in files
    )
    assert said("inspect", str(tmp_path / "back"), "--deep")["checked"] == "digests"
    again = said("upload", str(small), uri)
    assert (again["files"], again["kept"]) == (0, len(files) - 1)


def test_a_killed_upload_shows_nothing_and_the_next_one_goes_on(
    owner: Owner, dataset: Path, tmp_path: Path, said: Say
) -> None:
    bucket = owner.server.bucket()
    uri = f"s3://{bucket}/noise"
    shards = owner.server.server.objects / bucket / "noise/shards"
    with owner.start("upload", str(dataset), uri, command=UNHURRIED) as process:
        while process.poll() is None and len(list(shards.glob("*.sealed"))) < 5:
            time.sleep(0.002)
        process.kill()
    kept = owner.settled(bucket, "noise")
    assert "upload.json" in kept
    assert "dataset.json" not in kept
    assert 5 <= len(kept) < 48
    assert main(["download", uri, str(tmp_path / "early")]) == ExitCode.CONFIGURATION

    first = next(name for name in sorted(kept) if name.startswith("shards/"))
    size = (dataset / first).stat().st_size
    owner.server.client.put_object(Bucket=bucket, Key=f"noise/{first}", Body=b"\0" * size)
    sent = said("upload", str(dataset), uri)
    now = owner.stored(bucket, "noise")
    unchanged = {name for name, version in kept.items() if now.get(name) == version}
    assert unchanged == kept.keys() - {first, "upload.json"}
    assert sent["kept"] == len(unchanged)
    assert sent["files"] == len(now) - len(unchanged)
    said("download", uri, str(tmp_path / "back"))
    assert said("inspect", str(tmp_path / "back"), "--deep")["checked"] == "digests"
    assert "upload.json" not in now


def test_a_broken_download_goes_on(
    owner: Owner, small: Path, tmp_path: Path, said: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = owner.server.bucket()
    uri = f"s3://{bucket}/noise"
    said("upload", str(small), uri)
    *_, last = sorted(name for name in owner.stored(bucket, "noise") if name.startswith("shards/"))
    hidden = owner.server.server.objects / bucket / "noise" / last
    whole = hidden.read_bytes()
    hidden.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    target = tmp_path / "back"
    assert main(["download", uri, str(target)]) == ExitCode.INTEGRITY
    assert f"{last} is not the file that was sealed" in capsys.readouterr().err
    assert not target.exists()
    hidden.write_bytes(whole)
    (tmp_path / ".back.download/shards/of-another-dataset").write_bytes(b"left")
    fetched = said("download", uri, str(target))["fetched"]
    assert fetched < sum(path.stat().st_size for path in small.rglob("*.sealed"))
    load_dataset(target)
    assert not (target / "shards/of-another-dataset").exists()
    assert main(["download", f"{uri}/nothing", str(tmp_path / "none")]) == ExitCode.CONFIGURATION
    assert "holds no sealed dataset or model" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


def test_after_a_rewrap_only_policy_and_keys_are_sent_and_never_older_ones(
    owner: Owner, small: Path, tmp_path: Path, said: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = owner.server.bucket()
    uri = f"s3://{bucket}/noise"
    said("upload", str(small), uri)
    before = owner.stored(bucket, "noise")
    new = Path(shutil.copytree(small, tmp_path / "new"))
    (new / "policy.json").write_bytes((new / "policy.json").read_bytes() + b"\n")
    keys = (new / "keys.json").read_text()
    (new / "keys.json").write_text(keys.replace("vault:v1:", "vault:v2:"))
    assert said("upload", str(new), uri)["files"] == 2
    after = owner.stored(bucket, "noise")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"policy.json", "keys.json"}
    assert main(["upload", str(small), uri]) == ExitCode.CONFIGURATION
    assert "of version 1' is older than that at" in capsys.readouterr().err
    assert owner.stored(bucket, "noise") == after


def test_a_signed_model_goes_there_and_comes_back_and_its_opened_copy_stays_here(
    owner: Owner, tmp_path: Path, said: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    deks = seal_dataset(tmp_path / "job/data", records=60)
    job, signer = new_job(tmp_path / "job", deks), Signer()
    job.train()
    job.certify(signer)
    capsys.readouterr()  # what the pods said
    (job.final / "opened.safetensors").write_bytes(b"plaintext")
    bucket = owner.server.bucket()
    uri, back = f"s3://{bucket}/rows-v1", tmp_path / "back"
    sent = said("upload", str(job.final), uri)
    assert sent["kind"] == "model"
    files = {path.name for path in job.final.iterdir()} - {"opened.safetensors"}
    assert owner.server.names(bucket) == {f"rows-v1/{name}" for name in files}
    assert said("download", uri, str(back))["kind"] == "model"
    assert {path.name for path in back.iterdir()} == files
    assert verify_model(back, signer.public_pem).claim["verdict"] == "certified"
    assert main(["upload", str(job.root / "data"), uri]) == ExitCode.CONFIGURATION
    assert f"{uri} holds another model" in capsys.readouterr().err


def test_another_dataset_is_never_overwritten(
    owner: Owner, small: Path, tmp_path: Path, said: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = owner.server.bucket()
    other = sealed(tmp_path / "other", 4, seed=2)
    said("upload", str(small), f"s3://{bucket}/noise")
    owner.server.client.put_object(Bucket=bucket, Key="claimed/upload.json", Body=_claim())
    owner.server.client.put_object(Bucket=bucket, Key="notes/readme.txt", Body=b"mine")
    before = owner.stored(bucket, "")
    for prefix, problem in (
        ("noise", "holds another dataset"),
        ("claimed", "the upload of another dataset has begun"),
        ("notes", "holds readme.txt, which is no part of this upload"),
        ("notes/readme.txt", "there is an object notes/readme.txt"),
    ):
        assert main(["upload", str(other), f"s3://{bucket}/{prefix}"]) == ExitCode.CONFIGURATION
        err = capsys.readouterr().err
        assert problem in err
        assert "fix: " in err
    assert owner.stored(bucket, "") == before


def _claim() -> bytes:
    return json.dumps({"format": "securetrain/upload/v1", "manifestSha256": "ab" * 32}).encode()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("secret", ExitCode.REFUSED, "answered 403 SignatureDoesNotMatch"),
        ("bucket", ExitCode.CONFIGURATION, "the bucket no-such-bucket exists"),
        ("ca", ExitCode.TRY_AGAIN, "does not prove who it is"),
        ("away", ExitCode.TRY_AGAIN, "check --endpoint and --ca"),
    ],
)
def test_what_is_wrong_is_one_clear_error(
    s3_server: S3Server,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
    code: ExitCode,
    words: str,
) -> None:
    secret = "wrong-secret-of-the-owner" if change == "secret" else ""
    home = Owner.at_home(s3_server, tmp_path / "home", secret).home
    monkeypatch.setenv("HOME", str(home))
    bucket = "no-such-bucket" if change == "bucket" else s3_server.bucket()
    options = {
        "ca": ["--ca", str(_another_ca(tmp_path))],
        "away": ["--endpoint", "https://127.0.0.1:1"],
    }
    command = ["upload", str(small), f"s3://{bucket}/noise", *options.get(change, [])]
    assert main(command) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("error: ") == err.count("fix: ") == 1
    for kept in (secret or s3_server.secret_key.reveal_text(), s3_server.access_key):
        assert kept not in err


def _another_ca(folder: Path) -> Path:
    from localcluster.pki import Authority

    return Authority(folder / "pki", "other").certificate


@pytest.mark.usefixtures("owner")
def test_a_shard_that_is_broken_here_is_not_sent(
    s3_server: S3Server, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(small, tmp_path / "broken"))
    shard = next((broken / "shards").iterdir())
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    bucket = s3_server.bucket()
    assert main(["upload", str(broken), f"s3://{bucket}/noise"]) == ExitCode.INTEGRITY
    err = capsys.readouterr().err
    assert f"shards/{shard.name} is not the file that was sealed" in err
    assert f"Go on with: securetrain upload {broken} s3://{bucket}/noise" in err
    assert f"noise/shards/{shard.name}" not in s3_server.names(bucket)
    assert "noise/dataset.json" not in s3_server.names(bucket)


def test_memory_is_a_matter_of_what_is_on_its_way(
    owner: Owner, small: Path, tmp_path: Path
) -> None:
    large = sealed(tmp_path / "large", 160, shard_bytes=16 << 20)
    bucket = owner.server.bucket()
    little = owner.peak("upload", str(small), f"s3://{bucket}/small")
    much = owner.peak("upload", str(large), f"s3://{bucket}/large")
    assert much - little < 112 << 20  # four shards of 16 MiB, and not 160 MiB


def test_the_tag_of_a_file_that_goes_in_parts_is_foretold(owner: Owner, tmp_path: Path) -> None:
    bucket, file = owner.server.bucket(), tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20) * 33)
    reach = Reach(S3Options())
    with opened(parse_uri(f"s3://{bucket}/x"), reach) as depot:
        assert isinstance(depot, ObjectDepot)
        depot.store.write_file("parts", file)
        found = depot.store.stat("parts")
        assert found is not None
        assert found.etag.endswith('-3"')
        assert found.etag == depot.store.etag_of(file)


def test_of_what_a_server_encrypts_the_noted_digest_counts() -> None:
    """Versity's gateway has no keys of its own, so that its answer is given here."""
    plain = {"ETag": '"' + "ab" * 16 + '"'}
    assert not is_opaque(plain)
    assert not is_opaque({"ETag": '"' + "ab" * 16 + '-12"', "ServerSideEncryption": "AES256"})
    assert is_opaque(plain | {"ServerSideEncryption": "aws:kms"})
    assert is_opaque(plain | {"SSECustomerAlgorithm": "AES256"})
    assert is_opaque({"ETag": '"something"'})
