"""The files of a federation's devices, as their owners bind them: a client each, of its name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fedcore.data import Dataset, concat, load_examples
from fedcore.errors import ArgumentError, DataFormatError, DatasetError
from fedsim.sources.features import require_finite
from fedsim.sources.files import place_of
from fedsim.sources.source import Reader, Source

__all__ = ["DeviceFiles", "write_device_files"]

_ENDINGS: Final = (".npz", ".csv", ".csv.gz")
_LONGEST: Final = 64  # signs of a device's name


@dataclass(frozen=True, kw_only=True)
class DeviceFiles(Reader):
    """A folder with a file for each device: `anna.npz` is what the device named anna trains on.

    `path`: the folder. `test`: a file of the same form to test on, which is no device's; "" for
    none. Files are read as `fed client run --data` reads them, and nothing is imputed, scaled or
    held out, so that who trains on them finds the same bits. Real features of any precision are
    float32, as a model reads them. Files of other kinds are left alone.
    """

    path: str
    test: str = ""

    def load(self, base: Path) -> Source:
        """All files, in the order of their names.

        Raises: DataFormatError for a folder without such files; DatasetError for files that do not
        fit together, or two of one device; what `load_examples` raises.
        """
        folder, tested = place_of(base, self.path), place_of(base, self.test)
        parts = [_examples(path) for path in _files(folder) if path != tested]
        if not parts:
            raise DataFormatError(
                f"{folder.name or folder} holds no device's examples",
                where=str(folder),
                why=f"no file {', '.join(_ENDINGS)}" if folder.is_dir() else "it is no folder",
                fix="put a file for each device there, named as the device, such as anna.npz:"
                " nothing is downloaded",
            )
        _require_alike(parts)
        for part in parts:
            require_finite(part)  # here, where its file has a name
        train, test = concat(parts, name=folder.name), _examples(tested) if self.test else None
        ids = np.repeat([part.name for part in parts], [len(part) for part in parts])
        return Source(train, test, ids=ids, classes=_classes(train, test))


def write_device_files(folder: Path, clients: Iterable[Dataset]) -> int:
    """Writes each client's examples, in a new `folder`, into an .npz of its name; how many.

    Raises: ArgumentError for a folder that is there, or a name that no device and file can have.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ArgumentError(
            f"the folder {folder.name} cannot be made",
            why=(error.strerror or str(error)).lower(),
            fix="name one that is not there yet",
        ) from None
    count = 0
    for data in clients:
        name = data.name
        if not 0 < len(name) <= _LONGEST or name.startswith(".") or set(name) & set("/\\\0"):
            raise ArgumentError(
                f"no device is called {name!r:.80}",
                why=f"its file has its name, which has {_LONGEST} signs at most and no slash",
                fix="give clients other ids",
            )
        np.savez(folder / f"{name}.npz", x=data.x, y=data.y)
        count += 1
    return count


def _files(folder: Path) -> list[Path]:
    """Those of devices, in the order of their names. Raises: DatasetError for two of one device."""
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {path: _name(path) for path in there if path.name.endswith(_ENDINGS)}
    names = list(found.values())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(
            f"{folder.name}: two files of {twice[0]}",
            why="a device has one, and nobody says which of them it trains on",
            fix="leave one of them there",
        )
    return sorted(found, key=_name)


def _name(path: Path) -> str:
    return next(path.name.removesuffix(end) for end in _ENDINGS if path.name.endswith(end))


def _examples(path: Path) -> Dataset:
    """Floating features in the precision of the parameters, targets as a source has them."""
    data = load_examples(path, _name(path))
    if data.y.dtype.kind not in "iubf":
        raise DatasetError(
            f"{path.name}: targets are {data.y.dtype}",
            why="a device trains on classes, numbered from 0 on, or on real numbers",
            fix="save y as int64 or float32",
        )
    x = data.x.astype(np.float32, copy=False) if data.x.dtype.kind == "f" else data.x
    kind = np.float32 if data.y.dtype.kind == "f" else np.int64
    return Dataset(x, data.y.astype(kind, copy=False), data.name)


def _require_alike(parts: list[Dataset]) -> None:
    first = parts[0]
    for part in parts:
        forms = [(d.x.shape[1:], d.x.dtype, d.y.shape[1:], d.y.dtype) for d in (first, part)]
        if forms[0] != forms[1]:
            raise DatasetError(
                f"{part.name}: x {part.x.dtype} {part.x.shape}, y {part.y.dtype} {part.y.shape}",
                why=f"{first.name} has x {first.x.dtype} {first.x.shape}, y {first.y.dtype} "
                f"{first.y.shape}, and one model reads both; whole numbers in the last column of "
                "a .csv are classes",
                fix="save the features and targets of all devices in one form",
            )


def _classes(train: Dataset, test: Dataset | None) -> int | None:
    if train.y.dtype.kind == "f":
        return None
    return 1 + max(int(part.y.max()) for part in (train, test) if part is not None)
