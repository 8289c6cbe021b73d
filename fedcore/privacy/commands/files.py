"""What users hand over as files is read strictly: sizes first, one exact layout, nothing executed.

Messages name a file and a line, never what stands in it: scores and updates are data.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DataFormatError
from fedcore.privacy.ledger_records import Head
from fedcore.privacy.participation import Seal

__all__ = [
    "read_array",
    "read_arrays",
    "read_checkpoint",
    "read_json",
    "read_scores",
    "read_seal",
    "write_new",
]

_LARGEST_ARRAYS = 2**30
_LARGEST_TEXT = 2**26
_LARGEST_JSON = 2**20
_KEY_BYTES = 32

_SEPARATOR = re.compile(r" *, *|[ \t]+")
_NPY, _ZIP = b"\x93NUMPY", b"PK"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    RecursionError,
    OverflowError,
    MemoryError,  # the parser's own, where brackets or signs nest too deep
    tokenize.TokenError,
)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_json(path: str, *, what: str) -> object:
    """The JSON value in a file, if it has no number but integers and no key twice.

    Raises: ArgumentError if the file cannot be read, DataFormatError if it is not such a value.
    """
    data = _read(path, most=_LARGEST_JSON)
    try:
        return json.loads(
            data, parse_float=_refuse, parse_constant=_refuse, object_pairs_hook=_once
        )
    except (ValueError, RecursionError) as error:
        raise DataFormatError(
            f"{path} is no {what}",
            why="it is not JSON, or not such as is written for one",
            fix=f"pass the file that the {what} was written to",
        ) from error


def read_checkpoint(path: str | None) -> Head | None:
    """The head of a ledger that a checkpoint carries. Raises: as `read_json`; LedgerError."""
    return None if path is None else Head.from_json(read_json(path, what="head of a ledger"))


def read_seal(path: str) -> Seal:
    """What names are sealed with, from a file of the participation key. Raises: ArgumentError."""
    return Seal(_beginning(path, _KEY_BYTES + 1))


def read_array(path: str) -> NDArray[Any]:
    """The array of numbers in a .npy file.

    Raises: ArgumentError if the file cannot be read, DataFormatError if it is none.
    """
    return _array(_read(path, most=_LARGEST_ARRAYS), path)


def read_arrays(path: str, names: Sequence[str]) -> list[NDArray[Any]]:
    """The arrays of these names in a .npz file that holds no others. Raises: as `read_array`."""
    return _members(_read(path, most=_LARGEST_ARRAYS), path, names)


def read_scores(path: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Scores (n,) and who was in (n,): from two columns of text or .npy, or from a .npz.

    Text is `score,included` a line, or with spaces between, as `numpy.savetxt` writes it, included
    0 or 1; that may stand above as a header. A .npy is of shape (n, 2); a .npz holds `scores` and
    `included`.
    Raises: ArgumentError if the file cannot be read, DataFormatError if it is none of these.
    """
    data = _read(path, most=_LARGEST_ARRAYS)
    if data.startswith(_ZIP):
        scores, included = _members(data, path, ("scores", "included"))
    elif data.startswith(_NPY):
        both = _array(data, path)
        if both.ndim != 2 or both.shape[1] != 2:
            raise _malformed(path, f"its shape is {both.shape}, not (n, 2)")
        scores, included = both[:, 0], both[:, 1]
    else:
        scores, included = _columns(data, path)
    if scores.ndim != 1 or scores.shape != included.shape:
        raise _malformed(
            path, f"scores and `included` have shapes {scores.shape} and {included.shape}"
        )
    if not np.isin(included, (0, 1)).all():
        raise _malformed(path, "`included` holds something else than 0 and 1")
    return scores, included.astype(bool)


def write_new(path: str, text: str) -> None:
    """Writes a file that is not there yet. Raises: ArgumentError."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                os.unlink(path)
                raise
    except (OSError, ValueError) as error:
        there = isinstance(error, FileExistsError)
        raise ArgumentError(
            f"{path} cannot be written",
            why="it is there already" if there else _reason(error),
            fix="name another file, or remove that one" if there else "name another file",
        ) from error


def _read(path: str, *, most: int) -> bytes:
    data = _beginning(path, most + 1)
    if len(data) > most:
        raise _malformed(path, f"it is larger than {most // 2**20} MiB")
    return data


def _beginning(path: str, count: int) -> bytes:
    try:
        with open(path, "rb", opener=_open_file) as file:
            return file.read(count)
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"{path} cannot be read",
            why=_reason(error),
            fix="name a file that is there and may be read",
        ) from error


def _open_file(path: str, flags: int) -> int:
    """Neither waits for a pipe nor reads a device, which may never end."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "It is not a regular file")


def _array(data: bytes, path: str) -> NDArray[Any]:
    """The sizes that the header claims are compared with the file's before anything is made."""
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of headers that no NumPy of this millennium writes
            read_header = _HEADERS[np.lib.format.read_magic(stream)]
            shape, _, dtype = read_header(stream)
    except (*_UNREADABLE, Warning) as error:
        raise _malformed(path, "it does not begin as a .npy file of version 1 or 2") from error
    if dtype.kind not in "biuf":
        raise _malformed(path, f"it claims to hold {dtype}, not real numbers")
    # No longer than the file along any axis: NumPy makes an empty array of no size that it likes.
    if len(shape) > 2 or any(type(size) is not int or not 0 <= size <= len(data) for size in shape):
        raise _malformed(path, "its shape is not that of one vector or one table in this file")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise _malformed(path, "it is shorter or longer than its header says")
    try:
        found: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except MemoryError as error:
        raise _malformed(path, "it does not fit into the memory") from error
    return found


def _members(data: bytes, path: str, names: Sequence[str]) -> list[NDArray[Any]]:
    wanted = [f"{name}.npy" for name in names]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sorted(member.filename for member in members) != sorted(wanted):
                raise _malformed(path, f"it does not hold exactly {', '.join(names)}")
            if any(member.compress_type not in _COMPRESSIONS for member in members):
                raise _malformed(path, "it is compressed in a way that NumPy does not write")
            if sum(member.file_size for member in members) > _LARGEST_ARRAYS:
                raise _malformed(path, f"it holds more than {_LARGEST_ARRAYS // 2**20} MiB")
            contents = [_content(archive, name) for name in wanted]
    except MemoryError as error:
        raise _malformed(path, "it does not fit into the memory") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        if isinstance(error, DataFormatError):
            raise
        raise _malformed(path, "it is no .npz file, or a damaged one") from error
    return [_array(content, path) for content in contents]


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """No more than the size that a member states; read at once, it would inflate beyond that."""
    with archive.open(name) as member:
        return b"".join(iter(lambda: member.read(1 << 20), b""))


def _columns(data: bytes, path: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if len(data) > _LARGEST_TEXT:
        raise _malformed(path, f"as text it is larger than {_LARGEST_TEXT // 2**20} MiB")
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise _malformed(path, "it is neither .npy, nor .npz, nor plain text") from error
    first = 1 if lines and lines[0].lstrip("# ").replace(" ", "") == "score,included" else 0
    scores, included = [], []
    for number, line in enumerate(lines[first:], start=first + 1):
        try:
            score, coin = _SEPARATOR.split(line.strip())
            scores.append(float(score))
            included.append({0.0: 0, 1.0: 1}[float(coin)])
        except (ValueError, KeyError):
            why = f"line {number} is not a number, a comma or spaces, and 0 or 1"
            raise _malformed(path, why) from None
    return np.array(scores, np.float64), np.array(included, np.int64)


def _reason(error: OSError | ValueError) -> str:
    """Of the system, or of Python where a name is none, as with a zero byte."""
    said = error.strerror if isinstance(error, OSError) else str(error)
    return said or type(error).__name__


def _refuse(number: str) -> Any:
    raise ValueError("a number that is no integer")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _malformed(path: str, why: str) -> DataFormatError:
    return DataFormatError(
        f"{path} cannot be taken",
        why=why,
        fix="write it as the command describes it with --help",
    )
