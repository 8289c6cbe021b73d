"""A checkpoint is written whole or not at all, reads back to the bit, and must fit its model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from fedcore import nn
from fedcore.checkpoint import array_places, load_checkpoint, save_checkpoint
from fedcore.errors import (
    ArgumentError,
    CheckpointError,
    DataFormatError,
    DtypeError,
    FedcoreError,
    InstallError,
)
from tests.random_examples import thorough

library = pytest.importorskip(
    "safetensors.numpy", reason="safetensors is not installed (the extra 'demo')"
)

MODEL: dict[str, NDArray[Any]] = {
    "layers.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layers.0.bias": np.zeros(3, np.float32),
    "steps": np.array(7, np.int64),
}
SPEC = {name: (array.shape, array.dtype) for name, array in MODEL.items()}

texts = st.text(st.characters(codec="utf-8"), max_size=12)
dtypes = st.sampled_from(["?", "i1", "u1", "i2", "u4", ">i4", "i8", "u8", "f2", "f4", ">f8", "f8"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        texts.filter(lambda name: name not in ("", "__metadata__")),
        dtypes.flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0))),
        max_size=4,
    ),
    st.dictionaries(texts, texts, max_size=4),
    st.booleans(),
)
def test_arrays_and_texts_read_back_to_the_bit(
    tmp_path: Path, model: dict[str, NDArray[Any]], metadata: dict[str, str], transpose: bool
) -> None:
    model = {name: array.T if transpose else array for name, array in model.items()}
    save_checkpoint(tmp_path / "a", model, metadata=metadata)
    spec = {name: (a.shape, a.dtype.newbyteorder("=")) for name, a in model.items()}
    found = load_checkpoint(tmp_path / "a", expected=spec)
    places, data = array_places(tmp_path / "a"), (tmp_path / "a").read_bytes()
    assert found.metadata == metadata and found.arrays.keys() == places.keys() == model.keys()
    for name, array in model.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert found.arrays[name].tobytes() == native.tobytes()
        assert found.arrays[name].shape == array.shape
        shape, dtype, begin = places[name]
        assert (shape, dtype) == spec[name]
        assert data[begin : begin + native.nbytes] == native.tobytes()


def test_views_are_stored_as_the_values_they_show(tmp_path: Path) -> None:
    base = np.arange(12.0).reshape(3, 4)
    views = {"transposed": base.T, "strided": base[::2, 1::2], "reversed": base[::-1]}
    save_checkpoint(tmp_path / "a", views)
    found = load_checkpoint(tmp_path / "a").arrays
    for name, view in views.items():
        np.testing.assert_array_equal(found[name], view)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    metadata = {f"key {i}": str(i) for i in range(8)}
    backwards = dict(reversed(metadata.items()))
    save_checkpoint(tmp_path / "a", MODEL, metadata=metadata)
    save_checkpoint(tmp_path / "b", dict(reversed(MODEL.items())), metadata=backwards)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_programs_read_the_file_and_their_files_are_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "ours", MODEL)
    for name, array in library.load_file(tmp_path / "ours").items():
        np.testing.assert_array_equal(array, MODEL[name])
    library.save_file(MODEL, tmp_path / "theirs", metadata={"format": "np", "a": "b"})
    found = load_checkpoint(tmp_path / "theirs", expected=SPEC)
    assert found.metadata == {"a": "b", "format": "np"}
    np.testing.assert_array_equal(found.arrays["steps"], 7)


def test_loaded_arrays_belong_to_the_caller(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", MODEL)
    first, second = (load_checkpoint(tmp_path / "a").arrays["layers.0.bias"] for _ in range(2))
    first += 1
    assert (second == 0).all()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "a"
    save_checkpoint(path, MODEL, metadata={"round": "1"})
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(CheckpointError, match="cannot write") as caught:
        save_checkpoint(path, {"other": np.zeros(9)})
    assert "No space left" in caught.value.why and caught.value.fix
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a"]


def test_content_reaches_the_disk_before_the_name_and_the_name_before_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(handle: int) -> None:
        is_folder = os.path.isdir(f"/proc/self/fd/{handle}")
        events.append("sync folder" if is_folder else "sync file")
        fsync(handle)

    def traced_replace(source: str, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not show what a file handle refers to")
    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    save_checkpoint(tmp_path / "a", MODEL)
    assert events == ["sync file", "rename", "sync folder"]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "a"
    with pytest.raises(CheckpointError, match="cannot write") as caught:
        save_checkpoint(path, MODEL)
    assert caught.value.where == str(path)


def test_what_is_no_path_is_refused(tmp_path: Path) -> None:
    wrong: list[Any] = [tmp_path / "a\0b", None, 1.5]
    for path in wrong:
        with pytest.raises(CheckpointError, match="cannot write the checkpoint") as caught:
            save_checkpoint(path, MODEL)
        assert caught.value.where == str(path) and caught.value.why


def test_a_checkpoint_of_another_model_is_refused_with_every_difference(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_checkpoint(path, MODEL)
    expected = {
        "layers.0.weight": ((3, 2), np.float32),
        "layers.0.bias": ((3,), np.float64),
        "layers.1.weight": ((1,), np.float32),
    }
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, expected=expected)
    assert caught.value.why == (
        "missing: layers.1.weight; unexpected: steps; mismatched: "
        "layers.0.bias is float32 (3,), expected float64 (3,), "
        "layers.0.weight is float32 (2, 3), expected float32 (3, 2)"
    )
    with pytest.raises(CheckpointError, match=r"missing: 0, 1, .* and 12 more"):
        load_checkpoint(path, expected={**SPEC, **{str(i): ((1,), "f4") for i in range(20)}})


def test_values_that_are_not_finite_are_refused_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_checkpoint(
        path, {"good": np.ones(2), "nan": np.array([np.nan]), "inf": np.full(2, np.inf)}
    )
    assert np.isnan(load_checkpoint(path).arrays["nan"]).all()
    with pytest.raises(CheckpointError, match="not finite: inf, nan"):
        load_checkpoint(path, finite=True)


@pytest.mark.parametrize(
    ("model", "metadata", "error"),
    [
        ({"a": np.array(["text"])}, {}, DtypeError),
        ({"a": np.array([None])}, {}, DtypeError),
        ({"a": np.zeros(1, np.complex128)}, {}, DtypeError),
        ({"a": [1.0, 2.0]}, {}, DtypeError),
        ({"": np.zeros(1)}, {}, ArgumentError),
        ({"__metadata__": np.zeros(1)}, {}, ArgumentError),
        ({"\ud800": np.zeros(1)}, {}, ArgumentError),
        ({3: np.zeros(1)}, {}, ArgumentError),
        ({"a": np.zeros(1)}, {"round": 3}, ArgumentError),
        ({"a": np.zeros(1)}, {"\ud800": "x"}, ArgumentError),
    ],
)
def test_what_the_format_cannot_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, model: Any, metadata: Any, error: type[FedcoreError]
) -> None:
    with pytest.raises(error) as caught:
        save_checkpoint(tmp_path / "a", model, metadata=metadata)
    assert caught.value.why and caught.value.fix
    assert os.listdir(tmp_path) == []


def test_a_file_cut_or_extended_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_checkpoint(path, MODEL, metadata={"round": "1"})
    content = path.read_bytes()
    for damaged in (*(content[:end] for end in range(len(content))), content + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(DataFormatError, match="cannot read the checkpoint"):
            load_checkpoint(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=thorough(300))
@given(st.data())
def test_a_file_with_changed_bytes_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a"
    save_checkpoint(path, MODEL, metadata={"round": "1"})
    changed = bytearray(path.read_bytes())
    place = st.integers(0, len(changed) - 1)
    for position, byte in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        changed[position] = byte
    path.write_bytes(changed)
    try:
        found = load_checkpoint(path, expected=SPEC)
    except FedcoreError as error:
        assert error.why and error.fix
    else:
        assert {name: (a.shape, a.dtype) for name, a in found.arrays.items()} == SPEC


def test_what_is_no_readable_checkpoint_is_refused(tmp_path: Path) -> None:
    wrong: list[Any] = [tmp_path, tmp_path / "absent", tmp_path / "a\0b", os.devnull, None, 1.5]
    for path in wrong:
        with pytest.raises(DataFormatError, match="cannot read the checkpoint") as caught:
            load_checkpoint(path)
        assert caught.value.where == str(path) and caught.value.why


@pytest.mark.parametrize("stored", ["[]", "{", '{"a": 1}', "[" * 100_000, '{"a": "", "a": ""}'])
def test_metadata_of_another_form_are_refused(tmp_path: Path, stored: str) -> None:
    library.save_file({"a": np.zeros(1)}, tmp_path / "a", metadata={"fedcore": stored})
    with pytest.raises(DataFormatError, match="no JSON object of texts"):
        load_checkpoint(tmp_path / "a")


def write_header(path: Path, text: str, size: int) -> None:
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(size))


@pytest.mark.parametrize(
    "header",
    [
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},'
        ' "a": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},'
        ' "\\u0061": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}',
        '{"__metadata__": {"a": "1", "a": "2"},'
        ' "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    ],
)
def test_a_header_that_names_something_twice_is_refused(tmp_path: Path, header: str) -> None:
    write_header(tmp_path / "a", header, 8)
    with pytest.raises(DataFormatError, match="cannot read the checkpoint") as caught:
        load_checkpoint(tmp_path / "a")
    assert caught.value.why == "its header has two entries 'a'"


def test_a_dtype_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}})
    write_header(tmp_path / "a", header, 4)
    with pytest.raises(DataFormatError, match="BF16, which NumPy does not have"):
        load_checkpoint(tmp_path / "a")


def test_without_safetensors_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (
        lambda: save_checkpoint(tmp_path / "a", MODEL),
        lambda: load_checkpoint(tmp_path / "a"),
    ):
        with pytest.raises(InstallError, match="safetensors is not installed") as caught:
            call()
        assert "pip install" in caught.value.fix


def test_tensors_are_stored_as_their_arrays(tmp_path: Path) -> None:
    model = nn.Linear(3, 2, key=0)
    save_checkpoint(tmp_path / "a", model.parameters())
    save_checkpoint(tmp_path / "b", model.state_dict())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("arrays", [nn.Linear(3, 2, key=0), None, [np.zeros(3)]])
def test_what_is_no_mapping_is_refused_with_the_mapping_of_a_model(
    tmp_path: Path, arrays: Any
) -> None:
    with pytest.raises(ArgumentError, match=type(arrays).__name__) as caught:
        save_checkpoint(tmp_path / "a", arrays)
    assert "model.state_dict()" in caught.value.fix and caught.value.where


def test_a_leading_tilde_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_checkpoint("~/a", MODEL)
    assert (tmp_path / "a").exists()
    assert load_checkpoint("~/a").arrays.keys() == MODEL.keys()
