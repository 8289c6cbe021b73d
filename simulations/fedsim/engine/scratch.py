"""Arrays that processes share: plain files, mapped into the memory of each.

In a file system of memory where there is one, so that nothing is ever written to a disk.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedcore.data import Dataset
from fedcore.errors import SimulationError
from fedsim.partition import HeldOutRows, Partition
from fedsim.population import Population

__all__ = ["SLOTS", "Scratch"]

SLOTS = 2
"""Memories for results of each worker: one is read while the next is written."""

_MEMORY = Path("/dev/shm")  # noqa: S108, a folder of our own is made in it


class Scratch:
    """A folder of shared arrays. `remove` it in the end.

    Its owner holds a lock on it until it ends, however it ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None

    @classmethod
    def new(cls, *, room: int = 0) -> Scratch:
        """A new folder, in memory if there are so many bytes; those of dead owners are removed."""
        disk = Path(tempfile.gettempdir())
        for parent in (_MEMORY, disk):
            _sweep(parent)
        fits = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= room
        parent = _MEMORY if fits else disk
        made = cls(Path(tempfile.mkdtemp(prefix=f"fedsim-{os.getpid()}-", dir=parent)))
        made._lock = _locked(made.folder)
        return made

    def array(
        self, name: str, shape: int | tuple[int, ...], dtype: DTypeLike, *, new: bool = False
    ) -> NDArray[Any]:
        """The shared array of that name, of zeros if it is `new`.

        Raises: SimulationError if there is no room for it.
        """
        path, shape = self.folder / f"{name}.bin", shape if isinstance(shape, tuple) else (shape,)
        if new:
            _reserve(path, math.prod(shape) * np.dtype(dtype).itemsize)
        # Not as a memmap, which costs every operation on it a few microseconds.
        return np.asarray(np.memmap(path, dtype, mode="r+", shape=shape))

    def put(self, population: Population) -> None:
        """Writes a population down, as its clients see it."""
        self.put_data("population", population.data)
        for name, part in (("trained", population.partition), ("held", population.held_out)):
            np.save(self.folder / f"{name}-rows.npy", part.rows)
            np.save(self.folder / f"{name}-offsets.npy", part.offsets)
        (self.folder / "names.json").write_text(json.dumps(population.names), "utf-8")

    def population(self) -> Population:
        """The population that `put` wrote, mapped and not read."""
        rows, offsets, held, ends = (
            np.asarray(np.load(self.folder / f"{name}-{part}.npy", mmap_mode="r"))
            for name in ("trained", "held")
            for part in ("rows", "offsets")
        )
        names = json.loads((self.folder / "names.json").read_text("utf-8"))
        partition = Partition(rows, offsets, tuple(names))
        return Population(self.data("population"), partition, held_out=HeldOutRows(held, ends))

    def put_data(self, name: str, data: Dataset) -> None:
        """Writes a dataset down."""
        np.save(self.folder / f"{name}-x.npy", data.x)
        np.save(self.folder / f"{name}-y.npy", data.y)

    def data(self, name: str) -> Dataset:
        """The dataset that was put under that name, mapped and not read."""
        paths = [self.folder / f"{name}-{part}.npy" for part in "xy"]
        x, y = (np.asarray(np.load(path, mmap_mode="r")) for path in paths)
        return Dataset(x, y)

    def forget(self, name: str) -> None:
        """Deletes an array or a dataset. Who has mapped it may go on to use it."""
        for path in self.folder.glob(f"{name}[.-]*"):
            path.unlink()

    def remove(self) -> None:
        """Deletes the folder. Who has mapped its arrays may go on to use them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _reserve(path: Path, size: int) -> None:
    """Makes a file of zeros whose room is taken: else who writes to it later is ended by a signal.

    Raises: SimulationError.
    """
    try:
        with path.open("wb") as file:
            file.truncate(size)
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SimulationError(
            f"there is no room for {size / 2**20:.0f} MiB that workers share",
            why=f"{path.parent.parent}: {error.strerror}",
            fix="give it more (of a container: --shm-size), or take fewer workers, or threads",
        ) from error


def _sweep(parent: Path) -> None:
    """Removes what owners who were killed have left."""
    for folder in parent.glob("fedsim-*-*"):
        pid = folder.name.split("-")[1]
        # A process of this number may have made the folder, and not have locked it yet.
        if not pid.isdecimal() or _lives(int(pid)):
            continue
        with suppress(OSError):  # it lives in another container, or is another user's
            os.close(_locked(folder))
            shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> int:
    """Holds the folder as long as this descriptor is open. Raises: OSError if another does."""
    import fcntl  # which not every system has that may import this

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
