"""Where a run's scenario stood: the paths in it begin there, also when the run goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fedcore.errors import CheckpointError
from fedsim.records.durable import write_atomically
from fedsim.records.plain_json import canonical_json, parse_json

__all__ = ["base_of", "write_base"]

_ORIGIN: Final = "origin.json"


def write_base(folder: Path, base: Path) -> None:
    """Notes in a run's folder from where paths go, relative to the folder: both may move together.

    Raises: CheckpointError if the disk takes nothing.
    """
    try:
        there: Path | str = os.path.relpath(base.resolve(), folder.resolve())
        write_atomically(folder / _ORIGIN, [canonical_json({"base": str(there)}) + b"\n"])
    except OSError as error:
        raise CheckpointError(
            f"the run in {folder.name} cannot be written",
            where=str(folder),
            why=error.strerror or str(error),
            fix="make room or give access, and begin the run anew",
        ) from error


def base_of(folder: Path) -> Path:
    """From where paths go in the scenario of a run; the folder itself where nothing says so.

    Raises: DataFormatError for a note that is damaged.
    """
    try:
        found = parse_json((folder / _ORIGIN).read_bytes(), place=_ORIGIN)
    except OSError:
        return folder
    base = found.get("base") if isinstance(found, dict) else None
    return folder / base if isinstance(base, str) else folder
