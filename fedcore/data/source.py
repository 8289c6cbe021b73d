"""Reading a local file whole, so that no header in it can make a loader allocate.

Loaders see bytes that are already in memory: how much that is depends on the file's real size and
on `max_bytes`, never on a number written in the file. A gzip file is recognised by its first two
bytes, not by its name, and is inflated in pieces that stop at `most_inflated`.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path

from fedcore.errors import DataFormatError, TruncatedFileError
from fedcore.regular_file import open_regular

__all__ = ["MAX_BYTES", "most_inflated", "read_bytes", "read_lines", "too_inflated"]

MAX_BYTES = 1 << 30
_UNASKED = 128 << 20
# Measured data shrink by less than 20; deflate makes 1,032 bytes of one at most. Between them lie
# large arrays of next to nothing but zeros, and bombs.
_LARGEST_RATIO = 200
_GZIP_MAGIC = b"\x1f\x8b"
_PIECE_BYTES = 1 << 20


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file, inflated if it is gzip; a leading `~` is the home folder.

    Raises: DataFormatError if the file is missing, not a regular file, unreadable, larger than
    `max_bytes`, corrupt gzip, or if it inflates to more than `most_inflated`; TruncatedFileError
    if gzip data end early.
    """
    try:
        with open_regular(path) as file:
            # One byte more than it has now, which a file that does not grow never gives.
            content = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
            while len(content) <= max_bytes and (piece := file.read(_PIECE_BYTES)):
                content += piece
            if len(content) > max_bytes:
                raise _too_large(path, max_bytes)
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from None
    return _inflate(content, path, max_bytes) if content.startswith(_GZIP_MAGIC) else content


def most_inflated(compressed: int, max_bytes: int) -> int:
    """To how many bytes so many compressed ones may inflate: beyond that, a file is a bomb."""
    return min(max_bytes, max(_UNASKED, _LARGEST_RATIO * compressed))


def too_inflated(
    path: str | os.PathLike[str], where: str, compressed: int, max_bytes: int
) -> DataFormatError:
    """What to raise for a file that inflates to more than `most_inflated` allows."""
    most = most_inflated(compressed, max_bytes)
    bomb = most < max_bytes
    return DataFormatError(
        f"{Path(path).name} inflates to more than {most} bytes",
        where=where,
        why=f"it has {compressed} bytes: data shrink by less than {_LARGEST_RATIO}, and files that"
        " are made to fill a memory by more"
        if bomb
        else "a loader holds all of it in memory and refuses to fill it unasked",
        fix="if its data are nearly all alike, store them without compression"
        if bomb
        else "pass a larger max_bytes, or split the file",
    )


def read_lines(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> list[str]:
    """The lines of a UTF-8 text file without their ends, which may be LF, CRLF or CR.

    Raises: what `read_bytes` raises; DataFormatError if the text is not UTF-8.
    """
    content = read_bytes(path, max_bytes=max_bytes)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataFormatError(
            f"{Path(path).name} is not UTF-8 text",
            where=f"{path}:{line}",
            why=f"byte {error.start} of the file begins no UTF-8 character",
            fix="convert the file to UTF-8",
        ) from None
    # Not str.splitlines: it also splits at form feeds and U+2028, which no editor counts as lines.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _inflate(content: bytes, path: str | os.PathLike[str], max_bytes: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            inflated = bytearray()
            while piece := file.read(_PIECE_BYTES):
                inflated += piece
                if len(inflated) > most_inflated(len(content), max_bytes):
                    raise too_inflated(path, str(path), len(content), max_bytes)
            return bytes(inflated)
    except EOFError:
        raise TruncatedFileError(
            f"{Path(path).name} ends inside its gzip data",
            where=f"{path}: byte {len(content)}",
            why="the end marker of the compressed stream is missing",
            fix="fetch the file again; its copy or download was cut short",
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataFormatError(
            f"{Path(path).name} is corrupt gzip",
            where=str(path),
            why=str(error),
            fix="fetch the file again and compare its checksum",
        ) from None


def _too_large(path: str | os.PathLike[str], max_bytes: int) -> DataFormatError:
    return DataFormatError(
        f"{Path(path).name} is larger than {max_bytes} bytes",
        where=str(path),
        why="a loader holds the whole file in memory and refuses to fill it unasked",
        fix="pass a larger max_bytes, or split the file",
    )


def _unreadable(path: str | os.PathLike[str], reason: str) -> DataFormatError:
    return DataFormatError(
        "cannot read a data file",
        where=str(path),
        why=reason,
        fix="pass the path of a file that exists and that this user may read",
    )
