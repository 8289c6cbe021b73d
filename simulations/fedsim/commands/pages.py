"""Files that a command is asked to write: whole, or not at all."""

from __future__ import annotations

from pathlib import Path

from fedcore.errors import ArgumentError
from fedsim.records.durable import write_atomically

__all__ = ["write_page"]


def write_page(path: Path, text: str) -> None:
    """Makes `path` hold `text`, in place of what it held. Raises: ArgumentError."""
    try:
        write_atomically(path, [text.encode()])
    except OSError as error:
        raise ArgumentError(
            f"{path} cannot be written",
            why=error.strerror or str(error),
            fix="name a file in a folder that is there and may be written",
        ) from error
