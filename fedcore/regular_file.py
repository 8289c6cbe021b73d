"""Opening a file that somebody named, whatever is in its place: a pipe is not waited for.

Standard library alone: a device that waits for work looks at its files without loading NumPy.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

__all__ = ["open_regular"]


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, open for reading; a leading `~` is the home folder.

    Raises: OSError if it is missing, unreadable or of another kind, or `path` is none.
    """
    try:
        file = open(os.path.expanduser(os.fspath(path)), "rb", opener=_at_once)  # noqa: SIM115
    except (TypeError, ValueError):  # a NUL in it, or no text at all
        raise OSError(errno.EINVAL, "the path is not valid") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file")
    return file


def _at_once(path: str, flags: int) -> int:
    """Opens a file, and does not wait for somebody to write to one that is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
