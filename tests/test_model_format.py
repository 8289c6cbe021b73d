"""Model files: one form for one content, read by the library too, and safe to read from anybody."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fedcore.autograd.ravel import Entry, Spec
from fedcore.errors import (
    ArgumentError,
    CheckpointError,
    DataFormatError,
    ShapeError,
    TruncatedFileError,
)
from fedcore.model_format import copy_model, encode_model, model_bytes, read_model
from tests.random_examples import thorough

TEXTS = {"task": "digits", "round": "7", "parent": "ab" * 32}


def spec_of(shapes: Mapping[str, tuple[int, ...]]) -> Spec:
    entries, offset = [], 0
    for name, shape in shapes.items():
        entries.append(Entry(name, shape, offset))
        offset += entries[-1].size
    return Spec(tuple(entries), np.dtype(np.float32))


SPEC = spec_of({"conv.weight": (2, 3), "bias": (), "empty": (0, 4), "größe": (5,)})
VECTOR = np.arange(SPEC.size, dtype=np.float32) - 3.5


def file_of(
    vector: NDArray[np.float32] = VECTOR, spec: Spec = SPEC, texts: Mapping[str, str] = TEXTS
) -> bytes:
    return b"".join(encode_model(vector, spec, metadata=texts))


def rewritten(header: bytes, *, pad: bool = True) -> bytes:
    """The file of VECTOR under another header."""
    header += b" " * (-len(header) % 8) if pad else b""
    return len(header).to_bytes(8, "little") + header + VECTOR.tobytes()


def header() -> bytes:
    data = file_of()
    return data[8 : 8 + int.from_bytes(data[:8], "little")].rstrip(b" ")


def read(data: bytes, spec: Spec = SPEC) -> tuple[NDArray[np.float32], dict[str, str]]:
    return read_model(io.BytesIO(data), spec)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
shapes = st.dictionaries(
    names.filter(lambda name: name != "__metadata__"),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    min_size=1,
    max_size=6,
).filter(lambda found: spec_of(found).size > 0)


@given(shapes=shapes, texts=st.dictionaries(names, names, max_size=5), seed=st.integers(0, 99))
def test_what_is_written_is_read_bit_for_bit(
    shapes: dict[str, tuple[int, ...]], texts: dict[str, str], seed: int
) -> None:
    spec = spec_of(shapes)
    bits = np.random.default_rng(seed).integers(0, 2**32, spec.size, np.uint32)
    data = file_of(bits.view(np.float32), spec, texts)
    vector, found = read(data, spec)
    assert np.array_equal(vector.view(np.uint32), bits)
    assert found == texts
    assert len(data) == model_bytes(spec, texts)


@given(shapes=shapes, texts=st.dictionaries(names, names, max_size=5), behind=st.binary())
def test_a_copy_with_other_texts_is_the_file_of_the_same_model_with_them(
    shapes: dict[str, tuple[int, ...]], texts: dict[str, str], behind: bytes
) -> None:
    spec = spec_of(shapes)
    vector = np.arange(spec.size, dtype=np.float32)
    data = file_of(vector, spec)
    copied = copy_model(io.BytesIO(data + behind), spec, size=len(data), metadata=texts)
    assert b"".join(copied) == file_of(vector, spec, texts)


@given(st.permutations(list(TEXTS.items())))
def test_equal_content_gives_equal_bytes(texts: list[tuple[str, str]]) -> None:
    assert file_of(texts=dict(texts)) == file_of()


def test_the_values_begin_where_a_map_of_them_is_aligned() -> None:
    assert int.from_bytes(file_of()[:8], "little") % 8 == 0


def test_the_library_reads_the_same_arrays_and_texts(tmp_path: Path) -> None:
    library: Any = pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of())
    with library.safe_open(path, framework="numpy") as file:
        assert file.metadata() == TEXTS
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = SPEC.split(VECTOR)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def test_a_mapped_vector_is_the_same_and_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(file_of())
    with (tmp_path / "model").open("rb") as file:
        vector, texts = read_model(file, SPEC, mapped=True)
    assert np.array_equal(vector, VECTOR)
    assert texts == TEXTS
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 1


def test_writing_and_reading_hold_no_second_copy() -> None:
    spec = spec_of({"w": (1 << 22,)})
    vector = np.zeros(spec.size, np.float32)
    file = io.BytesIO(file_of(vector, spec))
    tracemalloc.start()
    try:
        for _ in encode_model(vector, spec, metadata={}):
            pass
        _, writing = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in copy_model(file, spec, size=file.seek(0, io.SEEK_END), metadata={}):
            pass
        _, copying = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        read_model(file, spec)
        _, reading = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert writing < 1 << 20
    assert copying < 3 << 20
    assert reading < 4 * spec.size + (3 << 20)


@pytest.mark.parametrize(
    "vector", [VECTOR[:-1], VECTOR.astype(np.float64), VECTOR.reshape(1, -1), VECTOR[::-1][:3]]
)
def test_a_vector_that_is_not_the_models_is_not_written(vector: NDArray[Any]) -> None:
    with pytest.raises(ShapeError):
        file_of(vector)


def test_a_strided_vector_is_written_by_its_elements() -> None:
    assert file_of(VECTOR[::-1]) == file_of(VECTOR[::-1].copy())


@pytest.mark.parametrize(
    "texts",
    [
        {"n": 1},
        {1: "n"},
        {"n": None},
        {"n": {"a": "b"}},
        {"n": "\ud800"},
        {str(index): "" for index in range(33)},
        {"long": "x" * 16_384},
    ],
)
def test_metadata_other_than_a_few_short_texts_are_not_written(texts: Any) -> None:
    with pytest.raises(ArgumentError):
        file_of(texts=texts)


@pytest.mark.parametrize("names", [[], ["__metadata__"], [str(index) for index in range(4_097)]])
def test_a_model_without_arrays_or_with_too_many_is_not_written(names: list[str]) -> None:
    spec = spec_of({name: (1,) for name in names})
    with pytest.raises(ArgumentError):
        file_of(np.zeros(spec.size, np.float32), spec)


def test_as_many_arrays_as_are_allowed_can_be_written_and_read() -> None:
    spec = spec_of({f"{index}": (1,) for index in range(4_096)})
    vector = np.arange(4_096, dtype=np.float32)
    assert np.array_equal(read(file_of(vector, spec), spec)[0], vector)


def test_a_header_that_no_reader_would_take_is_not_written() -> None:
    spec = spec_of({"x" * (1 << 20): (1,)})
    with pytest.raises(ArgumentError, match="too long"):
        file_of(np.zeros(1, np.float32), spec)


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ({"conv.weight": (3, 2), "bias": (), "empty": (0, 4), "größe": (5,)}, "[3,2]"),
        ({"conv.bias__": (2, 3), "bias": (), "empty": (0, 4), "größe": (5,)}, "conv.bias__"),
        ({"conv.weight": (2, 3), "bias": (), "größe": (5,), "empty": (0, 4)}, "order"),
        ({"conv.weight": (2, 3), "bias": (), "empty": (0, 4)}, "none of"),
        ({"conv.weight": (2, 3), "bias": (), "empty": (0, 4), "größe": (5,), "b": ()}, "missing"),
    ],
)
def test_a_file_of_another_model_is_refused_with_what_differs(
    shapes: dict[str, tuple[int, ...]], found: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(file_of(), spec_of(shapes))
    # The file is SPEC's; what the message says is the model's, or that an array is one of them.
    assert found in str(caught.value)


@pytest.mark.parametrize("length", range(0, len(file_of()), 7))
def test_a_file_that_ends_early_is_said_to(length: int) -> None:
    with pytest.raises(TruncatedFileError):
        read(file_of()[:length])


@pytest.mark.parametrize("length", [0, 1, 7, 12, (1 << 20) + 8, (1 << 63), (1 << 64) - 8])
def test_a_header_of_a_length_that_none_has_is_not_read(length: int) -> None:
    with pytest.raises(DataFormatError, match=str(length)):
        read(length.to_bytes(8, "little") + file_of()[8:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"__metadata__":{', b'{ "__metadata__":{'),
        (b'{"__metadata__":{', b'{"__metadata__":{"a":"","a":"",'),
        (b'"parent"', b'"zparent"'),
        (b'"digits"', b'"d\\u0069gits"'),
        (b'"digits"', b'"d\\u00"'),
        (b'"digits"', b'"\\ud800"'),
        (b'"digits"', b'"\xff"'),
        (b'"digits"', b"1"),
        (b'"digits"', b"{}"),
        (b'"digits"', b'["' + b'["' * 300),
        (b'{"__metadata__"', b'{"__METADATA__"'),
    ],
)
def test_metadata_in_any_but_the_one_form_are_refused(old: bytes, new: bytes) -> None:
    assert old in header()
    with pytest.raises(DataFormatError):
        read(rewritten(header().replace(old, new)))


@pytest.mark.parametrize(
    "old_new",
    [
        (b'"dtype":"F32"', b'"dtype":"F64"'),
        (b'"data_offsets":[0,24]', b'"data_offsets":[0,28]'),
        (b'"data_offsets":[0,24]', b'"data_offsets":[4294967296,24]'),
        (b"[2,3]", b"[3,2]"),
        (b"[2,3]", b"[1e9,1e9]"),
        (b"[2,3]", b"[[2,3]]"),
    ],
)
def test_an_array_that_is_not_the_models_is_refused(old_new: tuple[bytes, bytes]) -> None:
    with pytest.raises(CheckpointError):
        read(rewritten(header().replace(*old_new, 1)))


def test_padding_is_as_short_as_it_can_be_and_nothing_follows_the_values() -> None:
    read(rewritten(header()))
    with pytest.raises(DataFormatError):
        read(rewritten(header().ljust(len(header()) // 8 * 8 + 16)))
    with pytest.raises(DataFormatError, match="follow"):
        read(file_of() + b"\0")


def test_the_file_can_be_taken_apart_by_the_formats_own_words() -> None:
    found = json.loads(header())
    assert found["conv.weight"] == {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


hostile = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda at, put: file_of()[: 8 + at] + put + file_of()[8 + at + len(put) :],
        st.integers(0, 300),
        st.binary(min_size=1, max_size=8),
    ),
    st.builds(
        lambda piece, count: rewritten(b'{"__metadata__":' + piece * count),
        st.sampled_from([b"[", b"{}", b'{"a":', b"[],", b'"', b"1,", b'{"a":"b",', b'"\\u0000"']),
        st.integers(1, 20_000),
    ),
    st.builds(
        lambda count: rewritten(
            b'{"__metadata__":{' + b",".join(b'"%d":"%d"' % (i, i) for i in range(count)) + b"}"
        ),
        st.integers(30, 3_000),
    ),
)


@settings(max_examples=thorough(300))
@given(hostile)
def test_nothing_that_anybody_sends_crashes_the_reader_or_fills_memory(data: bytes) -> None:
    file = io.BytesIO(data)
    read(file_of())  # what is made once, by the first use, is no doing of the input
    tracemalloc.start()
    try:
        try:
            vector, texts = read_model(file, SPEC)
        except (DataFormatError, CheckpointError) as error:
            with pytest.raises(type(error)):
                copy_model(file, SPEC, size=len(data), metadata={})
        else:
            assert file_of(vector, SPEC, texts) == data
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # An error with its traceback takes some kilobytes, whatever the input.
    assert peak <= 16 * len(data) + 32_768
