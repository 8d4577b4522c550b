"""Object stores for tests: our client on the real server, and one in memory that can break off."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from securetrain.api.gateway import ObjectStorage
from securetrain.errors import IntegrityError, ManifestInvalid, SecuretrainError
from securetrain.secret import Secret
from securetrain.storage.credentials import Credentials
from securetrain.storage.objects import Progress, StoredObject
from securetrain.storage.s3 import S3Store, open_store
from securetrain.storage.uri import parse_uri
from support.s3_server import REGION, S3Server


def told(server: S3Server, folder: str = "/none", **changes: Any) -> ObjectStorage:
    """What a pod is told of the server."""
    known = {"name": "local", "endpoint": server.endpoint, "region": REGION, "ca": server.ca_pem}
    return ObjectStorage(**{**known, "credentials": folder, **changes})


def login(server: S3Server) -> Credentials:
    """The administrator's login."""
    return Credentials(Secret.from_text(server.access_key), server.secret_key)


def mounted(server: S3Server, folder: Path, secret: str | None = None) -> str:
    """The login as kubelet mounts it."""
    folder.mkdir(exist_ok=True)
    (folder / "AWS_ACCESS_KEY_ID").write_text(server.access_key)
    (folder / "AWS_SECRET_ACCESS_KEY").write_text(secret or server.secret_key.reveal_text())
    return str(folder)


def opened(server: S3Server, address: str, **changes: Any) -> AbstractContextManager[S3Store]:
    """Our client at an address of the server."""
    return open_store(told(server, **changes), login(server), parse_uri(address))


def upload(server: S3Server, folder: Path, address: str) -> None:
    """Copy a folder into a bucket, by a client that is not ours."""
    uri = parse_uri(address)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = f"{uri.path}/{file.relative_to(folder)}"
        server.client.put_object(Bucket=uri.place, Key=key, Body=file.read_bytes())


class Cut(BaseException):
    """The process ends here."""


@dataclass
class Bucket:
    """Objects, and when it is over."""

    objects: dict[str, bytes] = field(default_factory=dict)
    calls: int = 0
    lives: int | None = None
    """Changes that are made before `Cut`."""
    meanwhile: Callable[[str], None] = lambda _name: None
    """Called with an object's name before each change of it: what others do at that moment."""

    def change(self, name: str) -> None:
        """One change; raises `Cut` when there has been one too many."""
        if self.calls == self.lives:
            raise Cut
        self.calls += 1
        self.meanwhile(name)


@dataclass(frozen=True)
class MemoryStore:
    """An `ObjectStore` in memory."""

    bucket: Bucket
    prefix: str = ""

    def below(self, prefix: str) -> MemoryStore:
        return replace(self, prefix="/".join(filter(None, (self.prefix, prefix))))

    def list(self, prefix: str = "", *, limit: int) -> Sequence[StoredObject]:
        start = self._key("")
        keys = sorted(key for key in self.bucket.objects if key.startswith(start + prefix))
        return [self._stored(key.removeprefix(start)) for key in keys[:limit]]

    def stat(self, name: str) -> StoredObject | None:
        return self._stored(name) if self.has(name) else None

    def has(self, name: str) -> bool:
        return self._key(name) in self.bucket.objects

    def read(self, name: str, limit: int, error: type[IntegrityError] = ManifestInvalid) -> bytes:
        with self.open(name, limit, error) as (stream, _):
            return stream.read()

    @contextmanager
    def open(
        self, name: str, limit: int, error: type[IntegrityError]
    ) -> Iterator[tuple[BinaryIO, int]]:
        data = self.bucket.objects.get(self._key(name))
        if data is None:
            raise error(f"{name} does not exist")
        if len(data) > limit:
            raise error(f"{name} has {len(data)} bytes, more than {limit}.")
        yield io.BytesIO(data), len(data)

    def write(self, name: str, data: bytes) -> None:
        self.bucket.change(self._key(name))
        self.bucket.objects[self._key(name)] = bytes(data)

    def write_file(self, name: str, path: Path, progress: Progress | None = None) -> None:
        self.write(name, path.read_bytes())

    def create(self, name: str, data: bytes) -> bool:
        self.bucket.change(self._key(name))
        if self.has(name):
            return False
        self.bucket.objects[self._key(name)] = data
        return True

    def exchange(self, found: StoredObject, data: bytes) -> bool:
        self.bucket.change(self._key(found.name))
        if self.stat(found.name) != found:
            return False
        self.bucket.objects[self._key(found.name)] = data
        return True

    def copy(self, source: StoredObject, name: str) -> StoredObject | None:
        self.bucket.change(self._key(name))
        if self.stat(source.name) != source:
            return None
        self.bucket.objects[self._key(name)] = self.bucket.objects[self._key(source.name)]
        return self._stored(name)

    def remove(self, name: str) -> None:
        self.bucket.change(self._key(name))
        self.bucket.objects.pop(self._key(name), None)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _stored(self, name: str) -> StoredObject:
        data = self.bucket.objects[self._key(name)]
        return StoredObject(name, len(data), f'"{hashlib.md5(data).hexdigest()}"')


CALLS: dict[str, Callable[[S3Store], object]] = {
    "read": lambda store: store.read("dataset.json", 10),
    "has": lambda store: store.has("dataset.json"),
    "list": lambda store: store.list(limit=1),
    "copy": lambda store: store.copy(StoredObject("a", 1, "b"), "c"),
    "remove": lambda store: store.remove("model.json"),
    "write": lambda store: store.write("model.json", b"x"),
    "create": lambda store: store.create("key.json", b"x"),
}


def refused(store: S3Store, *calls: str) -> list[SecuretrainError]:
    """What each kind of call says."""
    found = []
    for name in calls or CALLS:
        with pytest.raises(SecuretrainError) as caught:
            CALLS[name](store)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        found.append(caught.value)
    return found
