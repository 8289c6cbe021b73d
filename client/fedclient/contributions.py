"""The vector that a client is about to give, kept until the round is over.

After a crash the client must send the very same integers: a second vector under the same masks
would give away the difference of both, and noise that is drawn again can be averaged away. Each
vector has a key of its own, sealed in the database: to destroy that is to destroy the vector,
whatever the disk still holds of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fedclient.database import Database
from fedclient.files import sync_folder
from fedclient.sealing import KEY_BYTES, Seal, frame_sizes, open_frames, seal_frames
from fedcore.errors import ClientStateError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Contributions"]


class Contributions:
    """The sealed vectors in a folder, one file each; their keys are in `database`."""

    def __init__(self, folder: Path, database: Database, seal: Seal) -> None:
        self._folder, self._database, self._seal = folder, database, seal

    def keep(self, assignment_id: bytes, blocks: Sequence[NDArray[np.int64]]) -> None:
        """Writes the blocks, in the place of what stood there: durable when it returns."""
        import numpy as np

        key, path = os.urandom(KEY_BYTES), self._path(assignment_id)
        pieces = (np.ascontiguousarray(block, "<i8").view(np.uint8).data for block in blocks)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
                for frame in seal_frames(key, pieces):
                    file.write(frame)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except OSError as error:
            raise ClientStateError(
                "the update cannot be kept before it is sent",
                why=f"{error.strerror} ({error.errno})",
                fix="free the disk; the round goes on without this client",
            ) from error
        self._database.write(
            "INSERT OR REPLACE INTO contribution VALUES (?, ?, ?)",
            assignment_id,
            self._seal.sealed(f"contribution/{assignment_id.hex()}", key),
            " ".join(str(len(block)) for block in blocks),
        )

    def load(self, assignment_id: bytes) -> list[NDArray[np.int64]] | None:
        """The blocks, or None. Raises: ClientStateError if they were changed."""
        import numpy as np

        rows = self._database.rows(
            "SELECT sealed_key, lengths FROM contribution WHERE assignment=?", assignment_id
        )
        if not rows:
            return None
        sealed_key, lengths = rows[0]
        assert isinstance(sealed_key, bytes) and isinstance(lengths, str)
        key = self._seal.opened(f"contribution/{assignment_id.hex()}", sealed_key)
        blocks = [np.empty(int(length), "<i8") for length in lengths.split()]
        sizes = [block.nbytes for block in blocks]
        try:
            with open(self._path(assignment_id), "rb") as file:
                frames = open_frames(key, _frames(file, sizes))
                for block in blocks:
                    view, filled = block.view(np.uint8).data, 0
                    while filled < len(view):
                        frame = next(frames)
                        view[filled : filled + len(frame)] = frame
                        filled += len(frame)
        except OSError as error:
            raise ClientStateError(
                "the kept update is gone",
                why=f"{error.strerror} ({error.errno})",
                fix="nothing is to be done: the client acts as one that was lost",
            ) from error
        return blocks

    def erase_all(self) -> None:
        """Destroys every kept vector: first the keys, then the files."""
        self._database.write("DELETE FROM contribution")
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                path.unlink(missing_ok=True)

    def _path(self, assignment_id: bytes) -> Path:
        return self._folder / f"{assignment_id.hex()}.sealed"


def _frames(file: BinaryIO, sizes: Sequence[int]) -> Iterator[bytes]:
    for size in sizes:
        for frame in frame_sizes(size):
            yield file.read(frame)
