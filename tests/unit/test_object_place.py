"""Models on object storage: how they appear, are replaced, and survive a pod that dies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from securetrain.errors import (
    IntegrityError,
    ModelCorrupt,
    OutputExists,
    ShardCorrupt,
    StorageMisconfigured,
)
from securetrain.sealed.model import KeyFile, dump_key
from securetrain.storage.objects import StoredObject
from securetrain_trainer.object_place import MODEL_OBJECTS, ObjectPlace
from support.buckets import Bucket, Cut, MemoryStore
from support.sealed_folders import sealed_model

FINAL = "models/m1"


def key_of(uid: str) -> bytes:
    return dump_key(
        KeyFile(
            format="securetrain/model-key/v1",
            mount="transit",
            kek="team-a-models",
            wrapped="vault:v1:" + "A" * 80,
            job_uid=uid,
            policy_sha256="a" * 64,
        )
    )


def place(bucket: Bucket, uid: str = "uid-1") -> ObjectPlace:
    return ObjectPlace(MemoryStore(bucket, "models"), "m1", uid)


@cache
def manifest() -> bytes:
    """A model.json of a job whose UID is `uid-1`."""
    with TemporaryDirectory() as folder:
        return (sealed_model(Path(folder) / "model") / "model.json").read_bytes()


def contents(uid: str, *, signed: bool = True) -> dict[str, bytes]:
    """A whole model of a job; every file is as long as another job's and differs from it."""
    names = [name for name in MODEL_OBJECTS if signed or name != "model.sig"]
    told = {"key.json": key_of(uid), "model.json": manifest().replace(b"uid-1", uid.encode())}
    return {name: f"{name} of {uid}".encode() for name in names} | told


def stage(bucket: Bucket, uid: str = "uid-1", *, signed: bool = True) -> dict[str, bytes]:
    """Put a whole model into a job's staging prefix, model.json last as the train phase does."""
    whole = contents(uid, signed=signed)
    with place(bucket, uid).staged() as folder:
        for name in sorted(whole, key=lambda name: name == "model.json"):
            folder.write(name, whole[name])
    return whole


def at(bucket: Bucket, prefix: str = FINAL) -> dict[str, bytes]:
    """What lies at a prefix."""
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in bucket.objects.items() if k.startswith(start)}


def signed_part(files: dict[str, bytes]) -> dict[str, bytes]:
    """What a signature covers: all but key.json, which a re-wrap replaces."""
    return {name: data for name, data in files.items() if name != "key.json"}


def old_model(bucket: Bucket) -> None:
    """A model of another job at the final prefix."""
    for name, data in contents("uid-0").items():
        bucket.objects[f"{FINAL}/{name}"] = data


def test_a_model_is_copied_whole_and_leaves_nothing_beside_it() -> None:
    bucket = Bucket()
    whole = stage(bucket)
    assert at(bucket) == {}
    place(bucket).publish(replace=False)
    assert at(bucket) == whole
    assert len(bucket.objects) == len(whole)


def test_the_claim_is_first_and_what_makes_it_a_model_last() -> None:
    seen: list[str] = []
    bucket = Bucket()
    stage(bucket)
    bucket.meanwhile = seen.append
    place(bucket).publish(replace=False)
    written = [name.removeprefix(f"{FINAL}/") for name in seen if name.startswith(f"{FINAL}/")]
    assert written[0] == "key.json"
    assert written[-2:] == ["model.sig", "model.json"]


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_there_is_kept_or_replaced_as_asked(replace: bool) -> None:
    bucket = Bucket()
    old_model(bucket)
    before, whole = at(bucket), stage(bucket)
    if replace:
        place(bucket).check_free(replace=True)
        place(bucket).publish(replace=True)
        assert at(bucket) == whole
        return
    for refuse in (place(bucket).check_free, place(bucket).publish):
        with pytest.raises(OutputExists, match="'m1' holds objects already"):
            refuse(replace=False)
    assert at(bucket) == before


@pytest.mark.parametrize("harm", ["data", "one object more", "no model.json", "another's key.json"])
def test_only_a_models_prefix_is_replaced(harm: str) -> None:
    bucket = Bucket()
    stage(bucket)
    old_model(bucket)
    if harm == "data":
        bucket.objects[f"{FINAL}/model.json"] = b"{}"
    elif harm == "another's key.json":
        bucket.objects[f"{FINAL}/key.json"] = key_of("uid-9")
    elif harm == "one object more":
        bucket.objects[f"{FINAL}/photos/cat.png"] = b"x"
    else:
        del bucket.objects[f"{FINAL}/model.json"]
    before = at(bucket)
    for refuse in (place(bucket).check_free, place(bucket).publish):
        with pytest.raises(OutputExists, match="not a model's prefix"):
            refuse(replace=True)
    assert at(bucket) == before


def test_a_neighbour_with_a_longer_name_and_an_empty_marker_are_not_in_the_way() -> None:
    bucket = Bucket()
    bucket.objects[f"{FINAL}0/model.json"] = bucket.objects[f"{FINAL}/"] = b""
    place(bucket).check_free(replace=False)
    assert not place(bucket).is_taken()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("replace", [False, True])
def test_a_pod_that_dies_at_any_moment_is_followed_by_one_that_ends_well(
    replace: bool, signed: bool
) -> None:
    """Whenever it dies, a whole model is somewhere, and what has a signature is whole."""
    changes = 0
    while True:
        bucket = Bucket()
        if replace:
            old_model(bucket)
        old, whole = at(bucket), stage(bucket, signed=signed)
        bucket.lives = bucket.calls + changes
        try:
            place(bucket).publish(replace=replace)
            break
        except Cut:
            bucket.lives = None
        if at(bucket).get("model.json"):
            assert signed_part(at(bucket)) in (signed_part(old), signed_part(whole))
        with place(bucket).stored(replace=replace) as (folder, published):
            found = {name: folder.read(name, 1 << 20) for name in folder.names()}
            assert found == whole
        if published:
            place(bucket).tidy()
        else:
            place(bucket).publish(replace=replace)
        assert at(bucket) == whole
        assert len(bucket.objects) == len(whole)
        changes += 1
    assert changes >= 2 * len(whole)


def test_of_two_jobs_that_are_given_one_prefix_the_second_is_told() -> None:
    bucket = Bucket()
    first, _ = stage(bucket, "uid-1"), stage(bucket, "uid-2")
    pending = [lambda: place(bucket, "uid-1").publish(replace=False)]

    def overtake(name: str) -> None:
        if name == f"{FINAL}/key.json" and pending:
            pending.pop()()

    bucket.meanwhile = overtake
    with pytest.raises(OutputExists, match="another job was given the prefix"):
        place(bucket, "uid-2").publish(replace=False)
    assert at(bucket) == first


@pytest.mark.parametrize("moment", range(40))
def test_two_jobs_that_replace_at_once_never_end_in_a_mixture(moment: int) -> None:
    """Whenever the second one comes between: what a job believes to be published is."""
    bucket = Bucket()
    old_model(bucket)
    one, two = stage(bucket, "uid-1"), stage(bucket, "uid-2")
    bucket.calls, ended = 0, []

    def publish(uid: str) -> None:
        try:
            place(bucket, uid).publish(replace=True)
            ended.append(uid)
        except OutputExists:
            return

    def between(_name: str) -> None:
        if bucket.calls == moment:
            bucket.meanwhile = lambda _name: None
            publish("uid-2")

    bucket.meanwhile = between
    publish("uid-1")
    assert ended
    assert at(bucket) in [{"uid-1": one, "uid-2": two}[uid] for uid in ended]


def test_a_model_that_is_changed_while_it_is_published_is_no_model() -> None:
    bucket = Bucket()
    stage(bucket)

    def change(name: str) -> None:
        if name == f"{FINAL}/weights.safetensors.sealed":
            bucket.objects[f"{FINAL}.uid-1.partial/weights.safetensors.sealed"] = b"swapped"

    bucket.meanwhile = change
    with pytest.raises(ModelCorrupt, match=r"weights\.safetensors\.sealed was changed"):
        place(bucket).publish(replace=False)
    assert not at(bucket).keys() & {"model.sig", "model.json"}


def test_training_starts_on_an_empty_prefix_and_leaves_none_behind_that_failed() -> None:
    bucket = Bucket()
    bucket.objects[f"{FINAL}.uid-1.partial/left/by an earlier pod"] = b"x"
    bucket.objects[f"{FINAL}.uid-2.partial/model.json"] = b"another job's"

    def train() -> None:
        with place(bucket).started(), place(bucket).staged() as folder:
            assert folder.names() == frozenset()
            folder.write("model.json", b"x")
            raise ShardCorrupt("shard")

    with pytest.raises(ShardCorrupt):
        train()
    assert list(bucket.objects) == [f"{FINAL}.uid-2.partial/model.json"]


def test_a_prefix_that_somebody_fills_again_and_again_is_told() -> None:
    bucket = Bucket()
    bucket.objects[f"{FINAL}.uid-1.partial/x"] = b""
    bucket.meanwhile = lambda name: bucket.objects.update({f"{name}x": b""})
    with pytest.raises(IntegrityError, match="does not become empty"), place(bucket).started():
        pass


def test_what_somebody_puts_between_is_told() -> None:
    bucket = Bucket()
    stage(bucket)

    def add(name: str) -> None:
        if name == f"{FINAL}/model.json":
            bucket.objects[f"{FINAL}/saved_model.pb"] = b"x"

    bucket.meanwhile = add
    with pytest.raises(OutputExists, match=r"somebody else put.*'saved_model\.pb'"):
        place(bucket).publish(replace=False)


class Overtaken:
    """A pod that hangs before one of its requests, while its successor publishes the model."""

    def __init__(self, bucket: Bucket, moment: int, *, replace: bool) -> None:
        self._bucket, self._moment, self._replace = bucket, moment, replace
        self._steps = 0
        self.whole = stage(bucket)
        self.happened = False
        bucket.meanwhile = self.step

    def step(self, _name: str = "") -> None:
        """Just before a request of the lost pod."""
        if self.happened:
            assert at(self._bucket) == self.whole
        self._steps += 1
        if self._steps == self._moment:
            self._bucket.meanwhile = lambda _name: None
            place(self._bucket).publish(replace=self._replace)
            self.happened = True
            self._bucket.meanwhile = self.step


@pytest.mark.parametrize("replace", [False, True])
def test_a_lost_pod_that_goes_on_harms_nothing_that_its_successor_published(
    replace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it hung, it ends well, and the other one's model stays whole all the time."""
    for name in ("list", "stat", "open"):
        monkeypatch.setattr(MemoryStore, name, told_of(getattr(MemoryStore, name)))
    moment = 0
    while True:
        moment, bucket = moment + 1, Bucket()
        if replace:
            old_model(bucket)
        overtaken = Overtaken(bucket, moment, replace=replace)
        place(bucket).publish(replace=replace)
        assert at(bucket) == overtaken.whole
        assert len(bucket.objects) == len(overtaken.whole)
        if not overtaken.happened:
            break
    assert moment > 2 * len(MODEL_OBJECTS)


def told_of(call: Callable[..., Any]) -> Callable[..., Any]:
    """A read that a bucket's `meanwhile` is told of too."""

    def read(store: MemoryStore, *arguments: Any, **options: Any) -> Any:
        store.bucket.meanwhile("")
        return call(store, *arguments, **options)

    return read


def test_a_model_that_is_published_once_more_is_there_all_the_time() -> None:
    """A pod that died between the last copy and the tidying up is followed by another."""
    bucket = Bucket()
    whole = stage(bucket)
    place(bucket).publish(replace=True)
    stage(bucket)
    seen: list[dict[str, bytes]] = []
    bucket.meanwhile = lambda _name: seen.append(at(bucket))
    place(bucket).publish(replace=True)
    assert seen
    assert all(files == whole for files in seen)


def test_nothing_is_withdrawn_for_a_model_that_is_not_whole() -> None:
    bucket = Bucket()
    old_model(bucket)
    stage(bucket)
    del bucket.objects[f"{FINAL}.uid-1.partial/report.html"]
    with pytest.raises(ModelCorrupt, match=r"report\.html was removed"):
        place(bucket).publish(replace=True)
    assert at(bucket)["model.json"] == contents("uid-0")["model.json"]


@pytest.mark.parametrize("ignored", ["create", "exchange"])
def test_a_server_that_ignores_conditions_is_refused_before_the_training(
    ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(store: MemoryStore, target: str | StoredObject, data: bytes) -> bool:
        store.write(target if isinstance(target, str) else target.name, data)
        return True

    monkeypatch.setattr(MemoryStore, ignored, write)
    bucket = Bucket()
    with (
        pytest.raises(StorageMisconfigured, match="If-None-Match"),
        place(bucket).started(),
    ):
        pytest.fail("it was started")
    assert bucket.objects == {}
