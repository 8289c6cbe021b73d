"""The first model of a task as the server takes it, read from its file a piece at a time.

A checkpoint has its arrays sorted by name, a model file has them in the model's order. Such a file
is not written anew, nor held in memory: its parts are read in another order than they lie in.
"""

from __future__ import annotations

import hashlib
import io
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from fedcore.autograd.ravel import Spec
from fedcore.checkpoint import array_places
from fedcore.errors import (
    ArgumentError,
    CheckpointError,
    DataFormatError,
    FedcoreError,
    TruncatedFileError,
)
from fedcore.federated.parameters import parameters_of
from fedcore.federated.task import Task
from fedcore.model_format import check_model, model_head

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["FirstModel", "Joined", "first_model"]


class FirstModel:
    """A model file of `size` bytes, whose SHA-256 is `sha256`, wherever its parts lie.

    Raises, as `open` does: ArgumentError if the file cannot be read.
    """

    def __init__(self, path: Path, parts: Callable[[io.BufferedReader], io.BufferedReader]) -> None:
        self._path, self._parts = path, parts
        with self.open() as file:
            self.size = file.seek(0, os.SEEK_END)
            file.seek(0)
            self.sha256 = hashlib.file_digest(file, "sha256").digest()

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """The model file, from its beginning."""
        with _readable(self._path), self._path.open("rb") as file:
            yield self._parts(file)


def first_model(task: Task, path: Path | None) -> FirstModel | None:
    """The safetensors file with which a task begins; None where it draws its first model itself.

    Raises: DataFormatError, CheckpointError for a file of another model; ArgumentError for one
    that cannot be read, or is missing and needed.
    """
    if path is None:
        if task.model.arrays:
            raise ArgumentError(
                "a task whose model is plain arrays comes without a first model",
                why="nobody here knows how its parameters are drawn",
                fix="hand in a safetensors file: fed task submit --model first.safetensors",
            )
        return None
    spec = parameters_of(task)
    try:
        with _readable(path), path.open("rb") as file:
            check_model(file, spec, size=file.seek(0, os.SEEK_END))
    except (CheckpointError, DataFormatError) as error:
        error.where = str(path)
        if isinstance(error, TruncatedFileError) or (places := _in_order(path, spec)) is None:
            raise
        head = model_head(spec, {})
        return FirstModel(path, lambda file: io.BufferedReader(Joined(file, head, places)))
    return FirstModel(path, lambda file: file)


def _in_order(path: Path, spec: Spec) -> list[tuple[int, int]] | None:
    """Where a checkpoint has the model's arrays, in its order: (byte, bytes); None for others."""
    places = array_places(path)
    if {name: place.shape for name, place in places.items()} != {
        entry.path: entry.shape for entry in spec
    } or any(place.dtype != np.float32 for place in places.values()):
        return None
    return [(places[entry.path].begin, 4 * entry.size) for entry in spec]


class Joined(io.RawIOBase):
    """`head`, and behind it the parts of `file` at `places`, each (byte, bytes), as one file."""

    def __init__(self, file: BinaryIO, head: bytes, places: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        parts: list[tuple[BinaryIO, int, int]] = [(io.BytesIO(head), 0, len(head))]
        parts += [(file, begin, size) for begin, size in places if size]
        self._parts, self._at = parts, 0
        self._ends = list(accumulate(size for _, _, size in parts))

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be sought."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a byte of the whole: its number."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._ends[-1]}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer` from one part at most: how many bytes; 0 at the end."""
        index = bisect_right(self._ends, self._at)
        if index == len(self._parts):
            return 0
        file, begin, size = self._parts[index]
        left = self._ends[index] - self._at
        file.seek(begin + size - left)
        data = file.read(min(left, memoryview(buffer).nbytes))
        memoryview(buffer)[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FedcoreError:  # some of which are an OSError, too
        raise
    except OSError as error:
        raise ArgumentError(
            f"the first model {path.name} cannot be read",
            why=(error.strerror or str(error)).lower(),
            fix="name a safetensors file, like one that `fed model export` wrote",
        ) from None
