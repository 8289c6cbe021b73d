"""NPZ archives of plain arrays, read without pickle and without trusting any size they state.

A pickled array runs code when it is loaded, so object arrays are refused. Every stated size is
compared with the bytes that are really in the file before an array is made of them.

Source: NEP 1 ("A simple file format for NumPy arrays"); zip with entries stored or deflated.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.data.source import MAX_BYTES, most_inflated, read_bytes, too_inflated
from fedcore.errors import DataFormatError, TruncatedFileError

__all__ = ["load_npz"]

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1
_LOCAL_HEADER, _LENGTHS = 30, 26  # bytes before an entry's name, and where its length stands
_LONGEST_HEADER = 1 << 17  # of an array: NumPy itself reads none of more than 10,000 characters
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def load_npz(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file by name, read-only.

    Raises: DataFormatError if the file is no zip of arrays, holds object arrays, or states sizes
    beyond `fedcore.data.source.most_inflated`; TruncatedFileError if an array is shorter than its
    header says; what `fedcore.data.source.read_bytes` raises.
    """
    content = read_bytes(path, max_bytes=max_bytes)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            # An entry yields no more bytes than it states, and several may share compressed ones.
            if sum(entry.file_size for entry in entries) > most_inflated(len(content), max_bytes):
                raise too_inflated(path, str(path), len(content), max_bytes)
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                payload = _payload(content, archive, entry, path)
                arrays[name] = _array(payload, f"{path}: {entry.filename}")
    except DataFormatError:
        raise
    # zipfile and NumPy's header parser raise a dozen kinds of error on bytes that are not theirs,
    # tokenize.TokenError and SyntaxError among them; all of them mean the same to the user.
    except Exception as error:
        raise DataFormatError(
            f"{Path(path).name} is no archive of arrays",
            where=str(path),
            why=f"{type(error).__name__}: {error}"[:300],
            fix="pass a file written by numpy.savez or numpy.savez_compressed",
        ) from None
    return arrays


def _payload(
    content: bytes, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: str | os.PathLike[str]
) -> memoryview:
    if entry.compress_type not in _METHODS or entry.flag_bits & _ENCRYPTED:
        raise DataFormatError(
            f"{Path(path).name} holds an entry that is encrypted or not deflated",
            where=f"{path}: {entry.filename}",
            why="NumPy writes entries stored or deflated, never otherwise",
            fix="write the file again with numpy.savez",
        )
    if entry.compress_type == zipfile.ZIP_STORED:
        return _stored(content, entry)
    payload = bytearray()
    with archive.open(entry) as file:  # in pieces: read whole, it inflates beyond what it states
        while piece := file.read(1 << 20):
            payload += piece
    return memoryview(payload).toreadonly()


def _stored(content: bytes, entry: zipfile.ZipInfo) -> memoryview:
    """The bytes of an entry where they lie: read by `zipfile` they would be copied three times."""
    name, extra = struct.unpack_from("<HH", content, entry.header_offset + _LENGTHS)
    begin = entry.header_offset + _LOCAL_HEADER + name + extra
    payload = memoryview(content)[begin : begin + entry.file_size]
    if entry.compress_size != entry.file_size or zlib.crc32(payload) != entry.CRC:
        raise zipfile.BadZipFile(f"bad CRC-32 for file {entry.filename!r}")
    return payload


def _array(payload: memoryview, where: str) -> NDArray[Any]:
    stream = io.BytesIO(payload[:_LONGEST_HEADER])
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise DataFormatError(
            f"npy format version {version} is not read here",
            where=where,
            why="versions 1.0 and 2.0 hold every array without structured field names",
            fix="save plain arrays of numbers, bools or text",
        )
    shape, fortran, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise DataFormatError(
            "an object array is refused",
            where=where,
            why="loading it would run the code that its pickle contains",
            fix="save arrays of numbers, bools or fixed-width text",
        )
    body = len(payload) - stream.tell()
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or body > expected:
        raise DataFormatError(
            f"an array of shape {shape} and {dtype} does not fit its bytes",
            where=where,
            why=f"{expected} bytes expected, {body} present",
            fix="write the file again with numpy.savez",
        )
    if body < expected:
        raise TruncatedFileError(
            f"an array of shape {shape} and {dtype} ends too early",
            where=where,
            why=f"{expected} bytes expected, {body} present",
            fix="fetch the file again; its copy or download was cut short",
        )
    flat = np.frombuffer(payload, dtype=dtype, offset=stream.tell())
    if not flat.flags.aligned:  # an archive puts its entries anywhere
        flat = flat.copy()
        flat.flags.writeable = False
    return flat.reshape(shape, order="F" if fortran else "C")
