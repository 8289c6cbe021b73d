"""Files of a run that are whole or absent after a crash, and a lock that a crash gives back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from fedcore.errors import ArgumentError, CheckpointError, InstallError

__all__ = [
    "LOCK",
    "FolderLock",
    "append_line",
    "disk",
    "is_locked",
    "sweep",
    "sync_folder",
    "write_atomically",
]

LOCK: Final = "lock"
"""The file in a run's folder that whoever writes there holds."""

_TEMPORARY: Final = ".tmp"
_GO_ON: Final = "make room or give access, and resume the run: it goes on from its checkpoint"


def write_atomically(
    path: Path, pieces: Iterable[bytes | memoryview], *, mode: int = 0o666
) -> None:
    """Make `path` hold `pieces`; it is as before or whole at any moment, and durable at the end.

    `mode`: who may read and write it, less what the process's mask takes away. Raises: OSError.
    """
    temporary = path.with_name(f".{path.name}{_TEMPORARY}")
    try:
        with open(temporary, "wb", opener=partial(os.open, mode=mode)) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def append_line(descriptor: int, line: bytes) -> None:
    """Write a line behind what a file holds, and wait until it is on the disk. Raises: OSError."""
    view = memoryview(line + b"\n")
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk. Raises: OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what writes that did not end have left. Raises: OSError."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink()


class FolderLock:
    """One at a time writes in a folder; held until `release`, or until the process ends.

    Raises: ArgumentError while another holds it, also one of this process; InstallError on a system
    without such locks.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import fcntl
        except ImportError:
            raise InstallError(
                "this system has no file locks that a run can use",
                why="two processes could write one run",
                fix="run the simulator on Linux or macOS",
            ) from None
        path = folder / LOCK
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The folder may have got its last name between these two lines, by who held the lock.
            moved = not path.exists() or not os.path.samestat(
                os.fstat(self._descriptor), path.stat()
            )
        except BlockingIOError:
            moved = True
        if moved:
            self.release()
            raise ArgumentError(
                f"the run {folder.name} is being written by another process or another call",
                why="two writers would mix their rounds",
                fix="wait for the other one to end, or begin a new run",
            )

    def release(self) -> None:
        """Gives it up; a second time, nothing happens."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(folder: Path) -> bool:
    """Whether a process writes in a folder now, which is not waited for."""
    try:
        import fcntl

        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (ImportError, OSError):
        return False
    try:
        # Shared, so that two who ask do not take each other for a writer. One who begins to write
        # in this very moment is refused, and has to begin again.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def disk(path: Path, *, fix: str = _GO_ON) -> Iterator[None]:
    """What the disk of a run refuses. `path`: its folder. Raises: CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"the run in {path.name:.80} cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            fix=fix,
        ) from error
