"""What a device's file holds: arrays as they were saved, or a table that ends with its target."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from fedcore.data import load_examples
from fedcore.errors import DatasetError


def test_arrays_stay_as_they_were_saved(tmp_path: Path) -> None:
    x, y = np.arange(6, dtype=np.uint8).reshape(3, 2), np.array([0.5, 1, 2])
    np.savez(tmp_path / "own.npz", x=x, y=y, more=x)
    found = load_examples(tmp_path / "own.npz", "own")
    assert found.name == "own" and found.x.dtype == np.uint8 and found.y.dtype == np.float64
    assert np.array_equal(found.x, x) and np.array_equal(found.y, y)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_whole_numbers_in_the_last_column_are_classes_and_others_one_output(
    tmp_path: Path, ending: str
) -> None:
    for first, shape, dtype in ((2, (2,), np.int64), (2.5, (2, 1), np.float32)):
        text = f"w,h,t\n1,2,{first}\n3,4.5,0\n".encode()
        path = tmp_path / f"own{ending}"
        path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
        found = load_examples(path)
        assert found.x.tolist() == [[1, 2], [3, 4.5]]
        assert found.y.shape == shape and found.y.dtype == dtype
        assert found.y.ravel().tolist() == [first, 0]


def test_an_archive_without_examples_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=np.zeros(2), labels=np.zeros(2))
    with pytest.raises(DatasetError, match="no arrays x and y") as refused:
        load_examples(tmp_path / "own.npz")
    assert "labels" in refused.value.why


@pytest.mark.parametrize("target", ["1e30", "-1e30", "9007199254740994"])
def test_a_class_that_no_integer_tells_apart_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "own.csv").write_text(f"w,t\n1,0\n2,{target}\n")
    with pytest.raises(DatasetError, match="no model reads"):
        load_examples(tmp_path / "own.csv")


@pytest.mark.parametrize("row", ["1e300,0.5", "1,1e300"])
def test_numbers_beyond_float32_are_refused(tmp_path: Path, row: str) -> None:
    (tmp_path / "own.csv").write_text(f"w,t\n1,0.5\n{row}\n")
    with pytest.raises(DatasetError, match="no model reads"):
        load_examples(tmp_path / "own.csv")


def test_a_class_that_float32_would_round_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("w,t\n1,16777217\n2,9007199254740992\n")
    assert load_examples(tmp_path / "own.csv").y.tolist() == [16777217, 2**53]
