"""Arrays that processes share: plain files, mapped into the memory of each.

In a file system of memory where there is one, so that nothing is ever written to a disk.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedcore.data import Dataset
from fedsim.partition import Partition
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
    def new(cls) -> Scratch:
        """A new folder, in memory if there is room for files; those of dead owners are removed."""
        parent = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
        _sweep(parent)
        made = cls(Path(tempfile.mkdtemp(prefix=f"fedsim-{os.getpid()}-", dir=parent)))
        made._lock = _locked(made.folder)
        return made

    def array(
        self, name: str, shape: int | tuple[int, ...], dtype: DTypeLike, *, new: bool = False
    ) -> NDArray[Any]:
        """The shared array of that name, of zeros if it is `new`."""
        mode = "w+" if new else "r+"
        return np.memmap(self.folder / f"{name}.bin", dtype, mode=mode, shape=shape)  # type: ignore[call-overload, no-any-return]

    def put(self, population: Population) -> None:
        """Writes a population down, as its clients see it."""
        partition = population.partition
        self.put_data("population", population.data)
        np.save(self.folder / "rows.npy", partition.rows)
        np.save(self.folder / "offsets.npy", partition.offsets)
        (self.folder / "names.json").write_text(json.dumps(population.names), "utf-8")

    def population(self) -> Population:
        """The population that `put` wrote, mapped and not read."""
        rows, offsets = (
            np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ("rows", "offsets")
        )
        names = json.loads((self.folder / "names.json").read_text("utf-8"))
        partition = Partition(np.asarray(rows), np.asarray(offsets), tuple(names))
        return Population(self.data("population"), partition)

    def put_data(self, name: str, data: Dataset) -> None:
        """Writes a dataset down."""
        np.save(self.folder / f"{name}-x.npy", data.x)
        np.save(self.folder / f"{name}-y.npy", data.y)

    def data(self, name: str) -> Dataset:
        """The dataset that was put under that name, mapped and not read."""
        x, y = (np.load(self.folder / f"{name}-{part}.npy", mmap_mode="r") for part in "xy")
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
