"""Data that the owner of a device bound to names: files are read for the first task that asks.

A device that waits for work holds none of them. What a file is not, is told at once.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from fedcore.errors import ArgumentError, DatasetError, FedcoreError
from fedcore.regular_file import open_regular

if TYPE_CHECKING:
    from fedcore.data import Dataset

__all__ = ["BoundData"]

_TABLES: Final = (".csv", ".gz")


class BoundData(Mapping[str, "Dataset"]):
    """Datasets by name: those `given`, and those in `files`.

    A file is an .npz with arrays x and y, or a .csv with the target in its last column, where
    targets that are whole numbers are classes. Raises: ArgumentError for a file that is neither;
    when it is read, DatasetError.
    """

    def __init__(self, files: Mapping[str, Path], given: Mapping[str, Dataset]) -> None:
        for name, path in files.items():
            _check(name, path)
        self._paths = dict(files)
        self._files, self._read = dict(files), dict(given)

    def __getitem__(self, name: str) -> Dataset:
        if name in self._files:
            self._read[name] = _dataset(name, self._files[name])
            del self._files[name]
        return self._read[name]

    def files(self) -> list[tuple[str, str, int, int]]:
        """Name, path, size and time of change of each file, 0 for one that is gone."""
        return [(name, str(path), *_version(path)) for name, path in sorted(self._paths.items())]

    def __contains__(self, name: object) -> bool:
        return name in self._files or name in self._read

    def __iter__(self) -> Iterator[str]:
        return iter({*self._read, *self._files})

    def __len__(self) -> int:
        return len({*self._read, *self._files})


def _version(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _check(name: str, path: Path) -> None:
    """What can be told without reading all of a file."""
    if path.suffix == ".npz":
        arrays = _array_names(name, path)
        if not {"x", "y"} <= arrays:
            raise ArgumentError(
                f"--data {name}: the file has no arrays x and y",
                why=f"it has {', '.join(sorted(arrays)) or 'none'}",
                fix="numpy.savez(path, x=features, y=targets), or bind the data by --setup",
            )
    elif path.suffix not in _TABLES:
        raise ArgumentError(
            f"--data {name}: no data are read from a file {path.suffix or 'without a suffix'}",
            why="known are .npz and .csv",
            fix="bind the data by --setup module:function",
        )
    else:
        _opened(name, path).close()


def _opened(name: str, path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise ArgumentError(
            f"--data {name}: the file cannot be read",
            why=f"{path}: {error.strerror}",
            fix="check the path",
        ) from error


def _array_names(name: str, path: Path) -> set[str]:
    with _opened(name, path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return {entry.removesuffix(".npy") for entry in archive.namelist()}
        # zipfile raises what it meets in a directory that is damaged: UnicodeDecodeError,
        # NotImplementedError and more; all of them mean the same to the owner.
        except Exception as error:
            raise ArgumentError(
                f"--data {name}: the file is no archive of arrays",
                why=f"{path}: {error}"[:300],
                fix="pass a file written by numpy.savez, or fetch it again",
            ) from error


def _dataset(name: str, path: Path) -> Dataset:
    from fedcore.data import load_examples

    try:
        return load_examples(path, name)
    except FedcoreError as error:
        raise DatasetError(
            f"the data {name!r:.80} cannot be read", why=str(error.what), fix=error.fix or ""
        ) from error
