"""Where a source's files lie, and what to say if they do not: nothing here is ever downloaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fedcore.errors import DataFormatError

__all__ = ["file_of", "place_of", "sole_file"]


def place_of(base: Path, path: str) -> Path:
    """A path of a scenario: `~` is the home folder, and what is relative lies in `base`."""
    return base / os.path.expanduser(path)  # which leaves a user that is not there as it is


def sole_file(place: Path, name: str, *, official: str) -> Path:
    """Of a set of one file: `place`, if that is a file, or what `file_of` finds in it."""
    return place if place.is_file() else file_of(place, (name,), official=official)


def file_of(place: Path, names: Sequence[str], *, official: str) -> Path:
    """The first of `names` in the folder `place`, gzip or not.

    `official`: where official copies are found, in words.
    Raises: DataFormatError, with what is expected and where it is found, if there is none.
    """
    found = (place / f"{name}{end}" for name in names for end in ("", ".gz"))
    for path in found:
        if path.exists():
            return path
    there = "the folder has no such file" if place.is_dir() else "it is no folder"
    raise DataFormatError(
        f"{' or '.join(names)} is missing",
        where=str(place),
        why=f"{there}; the file may be gzip (.gz) or not",
        fix=f"get {official}, and put it there: nothing is downloaded",
    )
