"""Arrays that processes share: plain files, mapped into the memory of each.

In a file system of memory where there is one, so that nothing is ever written to a disk.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedcore.data import Dataset
from fedsim.partition import Partition
from fedsim.population import Population

__all__ = ["Scratch"]

_MEMORY = Path("/dev/shm")  # noqa: S108, a folder of our own is made in it


class Scratch:
    """A folder of shared arrays. `remove` it in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def new(cls) -> Scratch:
        """A new folder, in memory if there is room for files."""
        parent = _MEMORY if _MEMORY.is_dir() else None
        return cls(Path(tempfile.mkdtemp(prefix="fedsim-", dir=parent)))

    def array(self, name: str, length: int, dtype: DTypeLike, *, new: bool = False) -> NDArray[Any]:
        """The shared array of that name, of zeros if it is `new`."""
        return np.memmap(
            self.folder / f"{name}.bin", dtype, mode="w+" if new else "r+", shape=(length,)
        )

    def put(self, population: Population) -> None:
        """Writes a population down, as its clients see it."""
        data, partition = population.data, population.partition
        np.save(self.folder / "x.npy", data.x)
        np.save(self.folder / "y.npy", data.y)
        np.save(self.folder / "rows.npy", partition.rows)
        np.save(self.folder / "offsets.npy", partition.offsets)
        (self.folder / "names.json").write_text(json.dumps(population.names), "utf-8")

    def population(self) -> Population:
        """The population that `put` wrote, mapped and not read."""
        x, y, rows, offsets = (
            np.load(self.folder / f"{name}.npy", mmap_mode="r")
            for name in ("x", "y", "rows", "offsets")
        )
        names = json.loads((self.folder / "names.json").read_text("utf-8"))
        partition = Partition(np.asarray(rows), np.asarray(offsets), tuple(names))
        return Population(Dataset(x, y), partition)

    def remove(self) -> None:
        """Deletes the folder. Who has mapped its arrays may go on to use them."""
        shutil.rmtree(self.folder, ignore_errors=True)
