"""IDX files read back as written, and no header can promise more than its file holds."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from fedcore.data import load_idx, load_mnist, load_qmnist_labels
from fedcore.errors import ArgumentError, DataFormatError, DatasetError, TruncatedFileError

CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def idx_bytes(array: NDArray[Any]) -> bytes:
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim])
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(sorted(CODES)), st.booleans())
def test_every_dtype_reads_back_as_written(
    tmp_path: Path, data: st.DataObject, dtype: str, pack: bool
) -> None:
    array = data.draw(arrays(dtype, array_shapes(max_dims=4, min_side=0, max_side=5)))
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(idx_bytes(array)) if pack else idx_bytes(array))
    found = load_idx(path)
    assert found.dtype == array.dtype and found.dtype.isnative
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("sizes", [(2**32 - 1,) * 4, (2**31,), (0, 2**32 - 1, 2**32 - 1)])
def test_a_header_that_promises_terabytes_allocates_nothing(
    tmp_path: Path, sizes: tuple[int, ...], pack: bool
) -> None:
    content = bytes([0, 0, 14, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + bytes(64)
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(content) if pack else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataFormatError):
            load_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000  # two pieces of 1 MiB and small change


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", DataFormatError, "not an IDX file"),
        (b"\0\0\x08", DataFormatError, "not an IDX file"),
        (b"\x01\0\x08\x01\0\0\0\0", DataFormatError, "not an IDX file"),
        (b"\0\0\x0a\x01\0\0\0\0", DataFormatError, "not an IDX file"),
        (b"\0\0\x08\x00", DataFormatError, "0 axes"),
        (b"\0\0\x08\xff", DataFormatError, "255 axes"),
        (b"\0\0\x08\x02\0\0\0\1", TruncatedFileError, "inside its header"),
        (b"\0\0\x08\x01\0\0\0\2a", TruncatedFileError, "ends too early"),
        (b"\0\0\x08\x01\0\0\0\1ab", DataFormatError, "goes on after"),
    ],
)
def test_a_malformed_file_is_refused_with_the_byte_where_it_goes_wrong(
    tmp_path: Path, content: bytes, error: type[DataFormatError], message: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        load_idx(path)
    assert caught.value.where.startswith(f"{path}: byte ")
    assert caught.value.why and caught.value.fix


@pytest.mark.parametrize("stem", ["{}-images-idx3-ubyte", "{}-images.idx3-ubyte"])
@pytest.mark.parametrize("pack", [False, True])
def test_mnist_is_found_in_each_published_spelling(tmp_path: Path, stem: str, pack: bool) -> None:
    images = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28)
    files = {stem: images, stem.replace("images", "labels").replace("3-", "1-"): images[:, 0, 7]}
    for name, array in files.items():
        content = idx_bytes(array)
        path = tmp_path / (name.format("t10k") + (".gz" if pack else ""))
        path.write_bytes(gzip.compress(content) if pack else content)
    data = load_mnist(tmp_path, split="test")
    assert data.x.shape == (2, 28, 28, 1) and data.x.dtype == np.float32
    np.testing.assert_allclose(data.x[..., 0] * 255, images, rtol=1e-6)  # one rounding each way
    assert data.x.max() == 1.0 and data.y.tolist() == images[:, 0, 7].tolist()


def test_mnist_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    with pytest.raises(DataFormatError, match="cannot read"):
        load_mnist(tmp_path)
    images.write_bytes(idx_bytes(np.zeros((3, 2, 2), np.uint8)))
    labels.write_bytes(idx_bytes(np.zeros(4, np.uint8)))
    with pytest.raises(DatasetError, match="3 examples, 4 targets"):
        load_mnist(tmp_path)
    labels.write_bytes(idx_bytes(np.zeros((3, 1), np.uint8)))
    with pytest.raises(DatasetError, match="labels uint8"):
        load_mnist(tmp_path)
    with pytest.raises(ArgumentError, match="split"):
        load_mnist(tmp_path, split="validation")  # type: ignore[arg-type]


def test_writer_ids_come_from_the_third_column_of_eight(tmp_path: Path) -> None:
    table = np.arange(24, dtype=np.int32).reshape(3, 8)
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(table))
    labels = load_qmnist_labels(path)
    assert labels.digit.tolist() == [0, 8, 16] and labels.writer.tolist() == [2, 10, 18]
    path.write_bytes(idx_bytes(table[:, :7].copy()))
    with pytest.raises(DataFormatError, match="no QMNIST label table"):
        load_qmnist_labels(path)


def test_a_folder_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match="folder is None"):
        load_mnist(None)  # type: ignore[arg-type]
