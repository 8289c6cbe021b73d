"""NPZ archives read back as written, never run code, and never allocate what they only promise."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from fedcore.data import load_npz
from fedcore.errors import DataFormatError, TruncatedFileError

dtypes = st.sampled_from(["?", "u1", "<i4", ">i4", "<f4", ">f8", "<c16", "<U3", "S2", "<M8[s]"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text("abcxyz_", min_size=1, max_size=4),
        dtypes.flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0))),
        max_size=3,
    ),
    st.booleans(),
    st.booleans(),
)
def test_arrays_read_back_as_written(
    tmp_path: Path, given_arrays: dict[str, NDArray[Any]], compress: bool, fortran: bool
) -> None:
    saved = {
        name: np.asarray(array, order="F" if fortran else "C")
        for name, array in given_arrays.items()
    }
    (np.savez_compressed if compress else np.savez)(tmp_path / "a.npz", **saved)  # type: ignore[arg-type]
    found = load_npz(tmp_path / "a.npz")
    assert found.keys() == saved.keys()
    for name, array in saved.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


class Bomb:
    """What a pickle can do: it calls a function of its author's choice."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was run",)


def archive(path: Path, payload: bytes, *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.npy", payload)
    return path


def refused(path: Path, says: str | None = None) -> tuple[DataFormatError, int]:
    """With what a file is refused, and the most bytes that were allocated until then."""
    tracemalloc.start()
    try:
        with pytest.raises(DataFormatError, match=says) as caught:
            load_npz(path)
        return caught.value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def test_a_pickled_array_is_refused_and_not_run(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(DataFormatError, match="object array is refused"):
        load_npz(archive(tmp_path / "a.npz", stream.getvalue()))
    with pytest.raises(DataFormatError, match="no archive"):
        load_npz(archive(tmp_path / "b.npz", pickle.dumps(Bomb())))


@pytest.mark.parametrize(
    "shape",
    ["(1000000000000,)", "(2**40,)", "(99999999999999999999,)", "(0, 99999999999999999999)"],
)
def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    path = archive(tmp_path / "a.npz", npy(header, bytes(8 * ("(0" not in shape))))
    assert refused(path)[1] < 4_000_000


def bomb(
    path: Path, *, size: int = 150_000_000, states: int | None = None, copies: int = 1
) -> Path:
    """`size` zeros in a thousandth of it; `states`: the size that the archive states instead."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", npy(header, bytes(size)))
        if states is not None:
            file.filelist[0].file_size = states
        # Others whose bytes are those of the first: what a directory states, a file need not have.
        file.filelist.extend(_copied(file.filelist[0], f"{i}.npy") for i in range(copies - 1))
    return path


def _copied(entry: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    found = copy(entry)
    found.filename = name
    return found


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 30_000_000, "states": 1000}, "no archive|too early|no room"),
        pytest.param({}, "inflates to more than 134217728 bytes", marks=pytest.mark.slow),
        pytest.param(
            {"states": 60_000_000, "copies": 20},
            "inflates to more than 134217728 bytes",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["states less", "honest", "the same bytes under many names"],
)
def test_a_bomb_is_refused_before_it_fills_the_memory(
    tmp_path: Path, options: dict[str, int], says: str
) -> None:
    path = bomb(tmp_path / "a.npz", **options)
    assert path.stat().st_size < 150_000
    error, peak = refused(path, says)
    assert peak < 8_000_000
    assert str(path) in error.where and error.fix


@pytest.mark.parametrize("begin", [1, 200, -1, -26, -30, 2**32 - 30, 2**32 - 1, 2**63, 2**64 - 30])
@pytest.mark.parametrize("states", [None, 2**20, 2**27 - 1])
def test_a_directory_that_points_elsewhere_reaches_nothing_beyond_the_file(
    tmp_path: Path, begin: int, states: int | None
) -> None:
    """`begin`: of an entry, from the file's end where it is negative; `states`: its size."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (99,), }"))
        entry = file.filelist[0]
        entry.header_offset = begin if begin >= 0 else file.start_dir + begin
        if states is not None:
            # The checksum of nothing, which is what a slice beyond the end gives.
            entry.file_size = entry.compress_size = states
            entry.CRC = 0
    assert refused(path)[1] < 4_000_000


def test_an_archive_that_inflates_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(300_000), b=np.zeros(300_000))
    assert load_npz(tmp_path / "a.npz", max_bytes=5_000_000)["b"].shape == (300_000,)
    with pytest.raises(DataFormatError, match="inflates to more"):
        load_npz(tmp_path / "a.npz", max_bytes=4_000_000)


@pytest.mark.parametrize(
    ("shape", "body", "error"),
    [
        ("(2,)", bytes(15), TruncatedFileError),
        ("(2,)", bytes(17), DataFormatError),
        ("(-1, -2)", bytes(16), DataFormatError),
        ("(-2,)", b"", DataFormatError),
        ("2", bytes(16), DataFormatError),
        ("(2", bytes(16), DataFormatError),
    ],
)
def test_an_array_that_does_not_fit_its_bytes_is_refused(
    tmp_path: Path, shape: str, body: bytes, error: type[DataFormatError]
) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    with pytest.raises(error) as caught:
        load_npz(archive(tmp_path / "a.npz", npy(header, body)))
    assert str(tmp_path / "a.npz") in caught.value.where and caught.value.fix


def test_what_numpy_does_not_write_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    newer = bytearray(stream.getvalue())
    newer[6] = 3
    for name, payload, method, message in (
        ("version", bytes(newer), zipfile.ZIP_STORED, "version"),
        ("bzip2", stream.getvalue(), zipfile.ZIP_BZIP2, "not deflated"),
        ("text", b"hello", zipfile.ZIP_STORED, "no archive"),
    ):
        with pytest.raises(DataFormatError, match=message):
            load_npz(archive(tmp_path / name, payload, method=method))
    (tmp_path / "plain").write_bytes(b"no zip")
    with pytest.raises(DataFormatError, match="no archive"):
        load_npz(tmp_path / "plain")
