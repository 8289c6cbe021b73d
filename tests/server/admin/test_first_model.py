"""A task of plain arrays needs a first model, and takes one in whatever order it was saved."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fedcore.checkpoint import save_checkpoint
from fedcore.console import ExitCode, exit_code
from fedcore.errors import ArgumentError, CheckpointError, DataFormatError
from fedcore.federated.parameters import parameters_of
from fedcore.federated.task import Task
from fedcore.model_format import read_model
from fedserver.admin.first_model import Joined, first_model

TASK = """
task = { name = "own", seed = 1 }
data = { dataset = "patients" }
training = { program = "mine" }
algorithm = { name = "fedavg" }
secure_aggregation = { profile = "off" }
rounds = { count = 2 }
cohort = { goal = 1, minimum = 1 }
model = { arrays = [{ name = "w", shape = [2, 3] }, { name = "b", shape = [3] }] }
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = tmp_path / "task.toml"
    path.write_text(TASK)
    return Task.from_toml(path).resolved()


def test_a_checkpoint_that_is_sorted_by_name_becomes_a_model_in_the_tasks_order(
    task: Task, tmp_path: Path
) -> None:
    path = tmp_path / "first.safetensors"
    weights, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.full(3, 9, np.float32)
    save_checkpoint(path, {"w": weights, "b": bias})
    first = first_model(task, path)
    assert first is not None
    with first.open() as file:
        data = file.read()
    assert (first.size, first.sha256) == (len(data), hashlib.sha256(data).digest())
    model = read_model(io.BytesIO(data), parameters_of(task))
    np.testing.assert_array_equal(model.vector, [0, 1, 2, 3, 4, 5, 9, 9, 9])


def test_a_file_without_metadata_is_taken_as_well(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "first.safetensors"
    save_file({"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}, path)
    first = first_model(task, path)
    assert first is not None
    with first.open() as file:
        model = read_model(io.BytesIO(file.read()), parameters_of(task))
    np.testing.assert_array_equal(model.vector, [1, 1, 1, 1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"w": np.zeros((2, 4), "f4"), "b": np.zeros(3, "f4")}, r"'w' F32 \[2,4\] is F32 \[2,3\]"),
        ({"w": np.zeros((2, 3), "f8"), "b": np.zeros(3, "f4")}, r"'w' F64 \[2,3\] is F32 \[2,3\]"),
        ({"v": np.zeros((2, 3), "f4"), "b": np.zeros(3, "f4")}, "'w' .* missing, and array 'v'"),
        ({"w": np.zeros((2, 3), "f4")}, "'b' .* is missing"),
    ],
)
def test_a_file_of_another_model_is_refused_by_the_name_of_the_array_that_differs(
    task: Task, tmp_path: Path, arrays: dict[str, NDArray[Any]], said: str
) -> None:
    path = tmp_path / "first.safetensors"
    save_checkpoint(path, arrays)
    with pytest.raises(CheckpointError, match=said) as caught:
        first_model(task, path)
    assert exit_code(caught.value) is ExitCode.ARGUMENTS


def test_a_file_that_is_cut_or_no_model_is_the_users_mistake(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "first.safetensors"
    save_checkpoint(path, {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)})
    for data in (path.read_bytes()[:-4], b"no safetensors, but words"):
        path.write_bytes(data)
        with pytest.raises(DataFormatError, match=str(path)) as caught:
            first_model(task, path)
        assert exit_code(caught.value) is ExitCode.ARGUMENTS


@given(
    st.binary(max_size=30),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 28)), max_size=6),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=8),
)
def test_parts_of_a_file_read_as_the_one_file_that_they_are(
    head: bytes, places: list[tuple[int, int]], reads: list[tuple[int, int]]
) -> None:
    data = bytes(range(128))
    whole = head + b"".join(data[begin : begin + size] for begin, size in places)
    file = io.BufferedReader(Joined(io.BytesIO(data), head, places), buffer_size=16)
    assert file.read() == whole and file.seek(0, io.SEEK_END) == len(whole)
    for begin, size in reads:
        file.seek(begin)
        assert file.read(size) == whole[begin : begin + size]


def test_other_arrays_or_none_are_refused_before_anything_is_sent(
    task: Task, tmp_path: Path
) -> None:
    path = tmp_path / "first.safetensors"
    bias = np.zeros(3, np.float32)
    for weights in (np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float64)):
        save_checkpoint(path, {"w": weights, "b": bias})
        with pytest.raises(CheckpointError, match="expected model"):
            first_model(task, path)
    with pytest.raises(ArgumentError, match="without a first model"):
        first_model(task, None)
