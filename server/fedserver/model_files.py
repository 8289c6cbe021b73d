"""Models go into the blob store and come out of it without a second copy in memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DataFormatError
from fedcore.model_format import copy_model, encode_model, read_model
from fedserver.blobs import BlobStore
from fedserver.disk import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedcore.autograd.ravel import Spec

__all__ = ["ModelOrigin", "import_model", "load_model", "store_model"]

_ROUND: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_PARENT: Final = re.compile(r"(?:[0-9a-f]{64})?")


@dataclass(frozen=True, slots=True)
class ModelOrigin:
    """Where a model comes from; `parent` is the digest of the model before it, b"" of the first.

    >>> ModelOrigin("digits", 7, bytes(32)).texts["round"]
    '7'
    """

    task: str
    round: int
    parent: bytes

    @property
    def texts(self) -> dict[str, str]:
        """The origin as the metadata of a model file."""
        return {"task": self.task, "round": str(self.round), "parent": self.parent.hex()}

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> ModelOrigin:
        """The origin that a model file names. Raises: DataFormatError if it names none."""
        number, parent = texts.get("round", ""), texts.get("parent", "-")
        if "task" not in texts or not _ROUND.fullmatch(number) or not _PARENT.fullmatch(parent):
            raise DataFormatError(
                "a model file does not say where it comes from",
                why="its metadata lack the task, the round or the parent of the model",
                fix="use a file that a server made, or import the model first",
            )
        return cls(texts["task"], int(number), bytes.fromhex(parent))


async def store_model(
    blobs: BlobStore, vector: NDArray[np.float32], spec: Spec, origin: ModelOrigin
) -> bytes:
    """Keep a model, the flat `vector` (D,) float32: the digest of its file, which is durable.

    The vector must not change meanwhile. Raises: ShapeError or ArgumentError for what is no such
    model, BlobError.
    """
    pieces = encode_model(vector, spec, metadata=origin.texts)
    async with blobs.writer() as writer:
        for piece in pieces:
            await writer.write(piece)
        return await writer.commit()


async def import_model(
    blobs: BlobStore, file: BinaryIO, spec: Spec, origin: ModelOrigin, *, size: int
) -> bytes:
    """Keep the model of a file of elsewhere, its first `size` bytes, under `origin`: the digest.

    Holds a piece of 1 MiB in memory. Raises: DataFormatError, CheckpointError for what is no model
    of `spec`, before anything is kept; BlobError.
    """
    pieces = await in_thread(copy_model, file, spec, size=size, metadata=origin.texts)
    async with blobs.writer() as writer:
        while (piece := await in_thread(next, pieces, b"")) != b"":
            await writer.write(piece)
        return await writer.commit()


async def load_model(
    blobs: BlobStore, digest: bytes, spec: Spec, *, mapped: bool = False
) -> tuple[NDArray[np.float32], ModelOrigin]:
    """A model by its digest: the vector (D,) float32 and its origin.

    `mapped`: the vector is a read-only view of the file. Raises: BlobError if the file is missing
    or damaged, CheckpointError if it is another model's than that of `spec`.
    """
    await blobs.verify(digest)
    with await blobs.open_read(digest) as file:
        vector, texts = await in_thread(read_model, file, spec, mapped=mapped)
    return vector, ModelOrigin.of(texts)
