"""The stores that keep blobs, each of which can be looked at behind its back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fedserver.blobs import BlobStore, LocalBlobStore, digest_name
from fedserver.object_blobs import ObjectBlobStore
from fedserver.objects import ObjectAddress, Objects
from tests.server.object_store import CREDENTIALS, ObjectStore, object_store

KINDS = ("local", "memory", pytest.param("s3", marks=pytest.mark.slow))


@dataclass
class Kept:
    """`opened`: the store anew, as a server elsewhere opens it. `spoil`: other bytes of a blob."""

    opened: Callable[[], BlobStore]
    spoil: Callable[[bytes, bytes], object]
    folder: Path

    def __post_init__(self) -> None:
        self.store = self.opened()

    def left(self) -> list[Path]:
        """All files on this machine."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


def on_objects(connected: Callable[[], Objects], folder: Path) -> Callable[[], ObjectBlobStore]:
    """Opens a store on objects with copies in a new folder."""
    numbers = itertools.count()

    def opened() -> ObjectBlobStore:
        copies = LocalBlobStore(folder / f"copies-{next(numbers)}")
        return ObjectBlobStore(connected(), copies)

    return opened


@pytest.fixture(scope="session")
def s3() -> Iterator[ObjectStore]:
    with pytest.MonkeyPatch.context() as patch, object_store() as store:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture
def address(s3: ObjectStore) -> Iterator[ObjectAddress]:
    """Of a new bucket."""
    bucket = f"models-{uuid4().hex}"
    s3.make_bucket(bucket)
    yield ObjectAddress(f"s3://{bucket}/federation", s3.endpoint)
    s3.fault = None


@pytest.fixture(params=KINDS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    if request.param == "local":
        root = tmp_path / "blobs"

        def spoil(digest: bytes, data: bytes) -> None:
            (root / digest_name(digest)).write_bytes(data)

        return Kept(lambda: LocalBlobStore(root), spoil, tmp_path)
    if request.param == "memory":
        memory: Any = pytest.importorskip("fsspec.implementations.memory")
        system, root_name = memory.MemoryFileSystem(), f"/{uuid4().hex}"
        connected = lambda: Objects(system, root_name)  # noqa: E731
    else:
        place = request.getfixturevalue("address")
        connected, root_name = lambda: Objects.connected(place), place.root
        system = Objects.connected(place)._system

    return Kept(
        on_objects(connected, tmp_path),
        lambda digest, data: system.pipe_file(f"{root_name}/{digest_name(digest)}", data),
        tmp_path,
    )
