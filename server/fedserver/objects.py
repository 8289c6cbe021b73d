"""Objects of a store that others keep, such as S3: put whole, fetched whole, listed by their age.

The library that speaks to it, fsspec, is imported by whoever connects, and by nobody else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from fedcore.errors import BlobError, InstallError
from fedserver.disk import FilePath

__all__ = ["ObjectAddress", "Objects"]

_PART_BYTES: Final = 16 << 20  # of an object on its way, of which four are in memory at once
_PARTS_AT_ONCE: Final = 4
_TRIES: Final = 3
_CONNECT_S: Final = 5
_ANSWER_S: Final = 60
_SLOWEST: Final = 256 << 10  # bytes a second


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """`url`: s3://bucket/prefix; `endpoint`: of a store that is not Amazon's, "" for theirs.

    Raises: ValueError for what is no such address, or has a secret in it.

    >>> ObjectAddress("s3://models/federation/").root
    'models/federation'
    >>> ObjectAddress("https://models.example")
    Traceback (most recent call last):
    ...
    ValueError: it has to be like s3://bucket/prefix
    """

    url: str
    endpoint: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if "@" in parts.netloc or "@" in urlsplit(self.endpoint).netloc:
            raise ValueError("it must not hold a secret, which others would read")
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise ValueError("it has to be like s3://bucket/prefix")
        if self.endpoint and not self.endpoint.startswith(("https://", "http://")):
            raise ValueError("it has to begin with https://")

    @property
    def root(self) -> str:
        """The bucket and the prefix, without a slash at the end."""
        return self.url.removeprefix("s3://").rstrip("/")


class Objects:
    """Objects below `root` of a file system of fsspec; for worker threads.

    An object is whole or absent: `system` has to show none whose `put_file` did not succeed.
    `options`: for its `put_file`, by the bytes that are put. Every method raises BlobError, whose
    cause is a FileNotFoundError exactly if there is no such object.
    """

    def __init__(
        self, system: Any, root: str, *, options: Callable[[int], Mapping[str, Any]] | None = None
    ) -> None:
        self._system, self.root = system, root.strip("/")
        self._options = options or (lambda _: {})

    @classmethod
    def connected(cls, address: ObjectAddress) -> Objects:
        """Objects of S3; credentials and region stand where its library looks for them.

        Connects at the first use. Raises: InstallError without the extra `s3`.
        """
        if importlib.util.find_spec("s3fs") is None:
            raise InstallError(
                "blobs on S3 need s3fs",
                why="it is not installed",
                fix="install the extra 's3', in a checkout: pip install -e '.[s3]'",
            )
        from s3fs import S3FileSystem

        system = S3FileSystem(
            endpoint_url=address.endpoint or None,
            default_block_size=_PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
            use_listings_cache=False,  # other servers put objects, too
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": _CONNECT_S,
                "read_timeout": _ANSWER_S,
                "retries": {"mode": "standard", "total_max_attempts": _TRIES},
            },
        )
        system.retries = 1  # those above are enough: the two multiply
        return cls(system, address.root, options=_patiently)

    def put(self, name: str, path: FilePath) -> None:
        """Keeps a file's bytes under a name, in place of what had it."""
        with self._failing(f"object {name} cannot be put"):
            options = self._options(os.stat(path).st_size)
            self._system.put_file(os.fspath(path), self._full(name), **options)

    def fetch(self, name: str, path: FilePath) -> None:
        """Writes an object's bytes to a file, over what is there."""
        with self._failing(f"object {name} cannot be read"):
            self._system.get_file(self._full(name), os.fspath(path))

    def digest(self, name: str) -> bytes:
        """The SHA-256 of an object's bytes, which are all read, and kept nowhere."""
        with (
            self._failing(f"object {name} cannot be read"),
            self._system.open(self._full(name), "rb") as file,
        ):
            return hashlib.file_digest(file, "sha256").digest()

    def size(self, name: str) -> int:
        """How many bytes an object has."""
        with self._failing(f"object {name} cannot be read"):
            return int(self._system.size(self._full(name)))

    def modified(self, name: str) -> datetime:
        """When an object was put, by the store's clock."""
        with self._failing(f"object {name} cannot be read"):
            found: datetime = self._system.modified(self._full(name))
            return found

    def names(self) -> list[str]:
        """Of all objects, sorted."""
        with self._failing(f"the objects in {self.root} cannot be listed"):
            found: list[str] = self._system.find(self.root)
        return sorted(path.removeprefix("/").removeprefix(f"{self.root}/") for path in found)

    def delete(self, name: str) -> None:
        """Forgets an object; what is not there stays so."""
        with (
            self._failing(f"object {name} cannot be deleted"),
            suppress(FileNotFoundError),
        ):
            self._system.rm_file(self._full(name))

    def _full(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # which ones, is the affair of each library below fsspec
            unsaid = (
                "it did not end in time" if isinstance(error, TimeoutError) else "for no reason"
            )
            reason = str(error).partition("\n")[0] or unsaid
            raise BlobError(
                what, why=f"{type(error).__name__}: {reason}"[:300], fix=self._remedy(error)
            ) from error

    def _remedy(self, error: Exception) -> str:
        if isinstance(error, PermissionError):
            return f"let the server list, read, write and delete objects in {self.root}"
        if isinstance(error, FileNotFoundError):
            return (
                f"look at server.blobs_url, {self.root}; what was deleted there behind the "
                "server's back, restore from a copy"
            )
        return "look at the store, the network to it and its credentials; it is tried again"


def _patiently(size: int) -> Mapping[str, Any]:
    """How an object of so many bytes is put.

    The library sends no body before the store has told it to, and would wait for that for ever: no
    limit of its own counts until the body is sent.
    """
    patience_s = _TRIES * (_CONNECT_S + _ANSWER_S) + size / _SLOWEST
    return {"chunksize": _PART_BYTES, "timeout": patience_s}
