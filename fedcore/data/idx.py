"""IDX, the format of MNIST and its family: a magic number, the sizes, then big-endian values.

Source: Y. LeCun, "The MNIST database of handwritten digits", section "File formats"; QMNIST
columns: C. Yadav and L. Bottou, "Cold case: the lost MNIST digits" (NeurIPS 2019).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset
from fedcore.data.source import MAX_BYTES, read_bytes
from fedcore.errors import ArgumentError, DataFormatError, DatasetError, TruncatedFileError

__all__ = ["WriterLabels", "load_idx", "load_mnist", "load_qmnist_labels"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 32  # NumPy's own limit is 64; no IDX file in use has more than 4
_PREFIX = {"train": "train", "test": "t10k"}
_QMNIST_COLUMNS = 8


class WriterLabels(NamedTuple):
    """What QMNIST knows of each image: its digit and who wrote it, each (N,) int64."""

    digit: NDArray[np.int64]
    writer: NDArray[np.int64]


def load_idx(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> NDArray[Any]:
    """The array of an IDX file, gzip or not, read-only and in the machine's byte order.

    Raises: DataFormatError if the header is not IDX or bytes follow the data; TruncatedFileError
    if the file is shorter than its header says; what `fedcore.data.source.read_bytes` raises.
    """
    content = read_bytes(path, max_bytes=max_bytes)
    dtype, shape = _header(content, path)
    offset = 4 + 4 * len(shape)
    # Python integers: a header may state sizes whose product no machine word holds.
    expected = offset + math.prod(shape) * dtype.itemsize
    if len(content) < expected:
        raise TruncatedFileError(
            f"{Path(path).name} ends too early",
            where=f"{path}: byte {len(content)}",
            why=f"its header promises {expected} bytes for shape {shape} of {dtype.name}",
            fix="fetch the file again; its copy or download was cut short",
        )
    if len(content) > expected:
        raise DataFormatError(
            f"{Path(path).name} goes on after its data",
            where=f"{path}: byte {expected}",
            why=f"{len(content) - expected} bytes follow shape {shape} of {dtype.name}",
            fix="pass an IDX file that holds one array and nothing else",
        )
    flat = np.frombuffer(content, dtype=dtype, offset=offset)
    array = flat.astype(dtype.newbyteorder("="), copy=False).reshape(shape)
    array.flags.writeable = False
    return array


def load_mnist(
    folder: str | os.PathLike[str], *, split: Literal["train", "test"] = "train"
) -> Dataset:
    """One split of MNIST, Fashion-MNIST, KMNIST or another data set of the same four file names.

    Shapes: x (N, 28, 28, 1) float32 in [0, 1], y (N,) int64. The files may be gzip (`.gz`) or not.
    Raises: ArgumentError for another split; DatasetError if images and labels do not fit together;
    what `load_idx` raises.
    """
    if split not in _PREFIX:
        raise ArgumentError(
            f"load_mnist: split is {split!r:.80}",
            why="the family has two splits",
            fix='pass split="train" or split="test"',
        )
    if not isinstance(folder, str | os.PathLike):
        raise ArgumentError(
            f"load_mnist: folder is {folder!r:.80}",
            why="the four files lie in one folder",
            fix="pass its path",
        )
    images = load_idx(_existing(folder, f"{_PREFIX[split]}-images-idx3-ubyte"))
    labels = load_idx(_existing(folder, f"{_PREFIX[split]}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.ndim != 1 or images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise DatasetError(
            f"load_mnist: images {images.dtype} {images.shape}, labels {labels.dtype} "
            f"{labels.shape}",
            where=str(folder),
            why="images are (N, height, width) bytes and labels (N,) bytes",
            fix="check that the files bear the names of their own contents",
        )
    pixels = np.multiply(images, np.float32(1 / 255), dtype=np.float32)
    return Dataset(pixels[..., np.newaxis], labels.astype(np.int64), name=Path(folder).name)


def load_qmnist_labels(path: str | os.PathLike[str]) -> WriterLabels:
    """Digits and writer ids, in row order, of a QMNIST label file: `qmnist-train-labels-idx2-int`.

    The train file's rows are those of MNIST's train images.
    Raises: DataFormatError if the table is not (N, 8) int32; what `load_idx` raises.
    """
    table = load_idx(path)
    if table.ndim != 2 or table.shape[1] != _QMNIST_COLUMNS or table.dtype != np.int32:
        raise DataFormatError(
            f"{Path(path).name} is no QMNIST label table",
            where=str(path),
            why=f"expected (N, {_QMNIST_COLUMNS}) int32, found {table.shape} {table.dtype}",
            fix="pass qmnist-train-labels-idx2-int or qmnist-test-labels-idx2-int, gzip or not",
        )
    return WriterLabels(table[:, 0].astype(np.int64), table[:, 2].astype(np.int64))


def _header(content: bytes, path: str | os.PathLike[str]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype and shape that the header states, each field checked before it is used."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise DataFormatError(
            f"{Path(path).name} is not an IDX file",
            where=f"{path}: byte 0",
            why=f"it begins with {bytes(content[:4]).hex(' ') or 'nothing'}; IDX begins with two "
            "zero bytes, a type code of 08, 09, 0b, 0c, 0d or 0e, and the number of axes",
            fix="pass an IDX file, gzip or not",
        )
    axes = content[3]
    if not 1 <= axes <= _MAX_AXES:
        raise DataFormatError(
            f"{Path(path).name} states {axes} axes",
            where=f"{path}: byte 3",
            why=f"an array here has between 1 and {_MAX_AXES} axes",
            fix="fetch the file again and compare its checksum",
        )
    if len(content) < 4 + 4 * axes:
        raise TruncatedFileError(
            f"{Path(path).name} ends inside its header",
            where=f"{path}: byte {len(content)}",
            why=f"the sizes of {axes} axes take {4 + 4 * axes} bytes",
            fix="fetch the file again; its copy or download was cut short",
        )
    sizes = np.frombuffer(content, dtype=">u4", count=axes, offset=4)
    shape = tuple(int(size) for size in sizes)
    if math.prod(max(size, 1) for size in shape) > 1 << 48:
        raise DataFormatError(
            f"{Path(path).name} states the shape {shape}",
            where=f"{path}: byte 4",
            why="no array of that shape can be addressed",
            fix="fetch the file again and compare its checksum",
        )
    return np.dtype(_DTYPES[content[2]]), shape


def _existing(folder: str | os.PathLike[str], name: str) -> Path:
    """`name` in `folder` in whichever of its published spellings exists, else the plain one."""
    dotted = name.replace("-idx", ".idx")
    there = Path(os.path.expanduser(folder))
    spellings = [there / (stem + end) for stem in (name, dotted) for end in ("", ".gz")]
    return next((path for path in spellings if path.exists()), spellings[0])
