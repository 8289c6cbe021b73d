"""A user's archive of arrays: what its dtypes mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.errors import DataFormatError, FedcoreError
from fedsim.sources.source import Source
from tests.sim.sources.miniatures import load

X = np.arange(8.0).reshape(4, 2)


def saved(folder: Path, **arrays: Any) -> Source:
    np.savez(folder / "own.npz", **arrays)
    return load("npz", {"path": "own.npz", "held_out": 0.0}, folder)


def test_integers_are_classes_real_numbers_a_regression_and_texts_classes_in_order(
    tmp_path: Path,
) -> None:
    source = saved(tmp_path, x=X, y=np.array([3, 0, 1, 1], np.uint8))
    assert source.classes == 4 and source.labels.tolist() == [3, 0, 1, 1]
    source = saved(tmp_path, x=X, y=np.array([0.5, 1, 2, 3]))
    assert source.classes is None and source.train.y.tolist() == [[0.5], [1], [2], [3]]
    assert source.labels.tolist() == [0.5, 1, 2, 3]
    source = saved(tmp_path, x=X, y=np.array(["no", "yes", "no", "maybe"]))
    assert source.class_names == ("maybe", "no", "yes") and source.labels.tolist() == [1, 2, 1, 0]
    source = saved(tmp_path, x=X, y=np.array([True, False, True, True]))
    assert source.classes == 2 and source.labels.tolist() == [1, 0, 1, 1]


def test_the_test_arrays_are_the_test_set_and_rows_are_not_held_out(tmp_path: Path) -> None:
    arrays = {"x": X, "y": [0, 1, 0, 1], "ids": ["a", "a", "b", "c"]}
    tests = {"x_test": X[:2] + 9, "y_test": [2, 1], "ids_test": ["a", "z"]}
    np.savez(tmp_path / "own.npz", **arrays, **tests)
    source = load("npz", {"path": "own.npz"}, tmp_path)
    assert source.test is not None and len(source.train) == 4 and source.classes == 3
    assert source.test.x.tolist() == (X[:2] + 9).tolist() and source.test.y.tolist() == [2, 1]
    assert source.ids is not None and source.ids.tolist() == ["a", "a", "b", "c"]
    assert source.test_ids is not None and source.test_ids.tolist() == ["a", "z"]


def test_integers_are_numbers_unless_they_are_codes(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=np.ones((4, 2), np.int32), y=[0, 1, 0, 1])
    for codes, dtype in ((False, np.float32), (True, np.int32)):
        source = load("npz", {"path": "own.npz", "codes": codes}, tmp_path)
        assert source.train.x.dtype == dtype


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": X},
        {"y": [1, 2]},
        {"x": X, "y": [0, 1]},
        {"x": X[:0], "y": np.zeros(0, int)},
        {"x": X, "y": [0, -1, 0, 1]},
        {"x": X, "y": [0.0, np.nan, 0, 1]},
        {"x": X, "y": [0j, 1, 0, 1]},
        {"x": X + 1j, "y": [0, 1, 0, 1]},
        {"x": X * 1e300, "y": [0, 1, 0, 1]},
        {"x": X[:, 0], "y": [0, 1, 0, 1]},
        {"x": X, "y": [0, 1, 0, 1], "ids": [1, 2]},
        {"x": X, "y": [0, 1, 0, 1], "x_test": X},
        {"x": X, "y": [0, 1, 0, 1], "x_test": X[:, :1], "y_test": [0, 1, 0, 1]},
        {"x": X, "y": [0, 1, 0, 1], "x_test": X, "y_test": [0.5, 1, 0, 1]},
        {"x": X, "y": ["a", "b", "a", "b"], "x_test": X, "y_test": ["a", "b", "a", "c"]},
        {"x": X.astype(object), "y": [0, 1, 0, 1]},
    ],
)
def test_arrays_that_no_model_can_be_trained_on_are_refused(
    arrays: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(FedcoreError) as found:
        saved(tmp_path, **arrays)
    assert found.value.why and found.value.fix


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataFormatError):
        load("npz", {"path": "own.npz"}, tmp_path)


def test_texts_of_bytes_are_classes_if_they_are_ascii(tmp_path: Path) -> None:
    found = saved(tmp_path, x=X, y=np.array([b"no", b"yes", b"no", b"no"]))
    assert found.class_names == ("no", "yes")
    with pytest.raises(DataFormatError, match="'y' does not fit") as refused:
        saved(tmp_path, x=X, y=np.array([b"no", b"\xff", b"no", b"no"]))
    assert "beyond ASCII" in refused.value.why


@pytest.mark.parametrize("name", ["npz", "csv", "arff"])
def test_the_folder_of_a_user_that_is_not_there_is_a_folder_like_others(
    name: str, tmp_path: Path
) -> None:
    options = {"path": "~nobody-of-that-name/own"} | ({} if name == "npz" else {"target": "y"})
    with pytest.raises(DataFormatError, match="cannot read a data file") as refused:
        load(name, options, tmp_path)
    assert refused.value.where == str(tmp_path / options["path"])
