"""MNIST comes with its writers where the file that knows them lies beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import DataFormatError, DatasetError
from tests.sim.sources.miniatures import MINIATURES, load, write_idx


def test_images_are_channels_last_with_their_writers_and_the_official_test_set(
    tmp_path: Path,
) -> None:
    source = load("mnist", MINIATURES["mnist"](tmp_path))
    assert source.train.x.shape == (12, 3, 3, 1) and 0 <= source.train.x.max() <= 1
    assert source.test is not None and source.test.x.shape == (5, 3, 3, 1)
    assert source.ids is not None and source.test_ids is None
    assert source.ids.tolist() == [100] * 5 + [101] * 5 + [102] * 2
    assert source.classes == 4 and source.labels.tolist() == [0, 1, 2, 3] * 3


def test_without_the_writers_file_there_are_no_ids(tmp_path: Path) -> None:
    options = MINIATURES["mnist"](tmp_path)
    (tmp_path / "qmnist-train-labels-idx2-int.gz").unlink()
    assert load("mnist", options).ids is None


def test_writers_of_other_images_are_refused(tmp_path: Path) -> None:
    options = MINIATURES["mnist"](tmp_path)
    write_idx(tmp_path / "qmnist-train-labels-idx2-int.gz", np.zeros((12, 8), np.int32))
    with pytest.raises(DatasetError, match="not about these images"):
        load("mnist", options)


@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte.gz"]
)
def test_each_missing_file_is_named_with_where_it_is_found(name: str, tmp_path: Path) -> None:
    options = MINIATURES["mnist"](tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataFormatError, match=name.removesuffix(".gz")) as found:
        load("mnist", options)
    assert "mirror" in found.value.fix and "no such file" in found.value.why


def test_the_digits_of_scikit_learn_have_14_writer_blocks() -> None:
    source = load("digits", {"held_out": 0.2})
    assert source.ids is not None and source.test_ids is not None
    blocks = np.bincount(source.ids) + np.bincount(source.test_ids)
    assert blocks.tolist()[:3] == [130, 126, 130] and len(blocks) == 14
    shares = np.bincount(source.test_ids) / blocks
    assert np.abs(shares - 0.2).max() <= 0.5 / blocks.min()
