"""Drawn data: of any shape, the same from the same seed, and as far apart as asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import TaskError
from tests.sim.sources.miniatures import load


def drawn(**options: Any) -> Any:
    return load("synthetic", {"rows": 40, "shape": [2, 3], "classes": 4, **options})


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 50), st.integers(2, 5))
def test_rows_have_the_shape_and_classes_asked_for(
    shape: list[int], rows: int, classes: int
) -> None:
    source = drawn(shape=shape, rows=rows, classes=classes)
    assert source.train.x.shape == (rows, *shape) and source.train.x.dtype == np.float32
    assert source.classes == classes and source.labels.shape == (rows,)
    assert source.test is None and source.ids is None


def test_more_rows_leave_those_before_as_they_are() -> None:
    shape, rows = [2048], (513, 1300)  # blocks of 512 rows
    few, more = (drawn(shape=shape, rows=count).train for count in rows)
    assert np.array_equal(few.x, more.x[: rows[0]]) and np.array_equal(few.y, more.y[: rows[0]])
    assert len({row.tobytes() for row in more.x}) == rows[1]


def test_seed_and_part_are_all_that_rows_depend_on() -> None:
    one, same, other = drawn(test_rows=40), drawn(test_rows=40), drawn(seed=1, test_rows=40)
    assert np.array_equal(one.train.x, same.train.x) and np.array_equal(one.test.y, same.test.y)
    assert not np.array_equal(one.train.x, other.train.x)
    assert not np.array_equal(one.train.x, one.test.x)


@pytest.mark.parametrize("shape", [[1500], [5, 300]])
def test_means_of_two_classes_lie_as_far_apart_as_asked_and_the_noise_is_1(
    shape: list[int],
) -> None:
    source = drawn(shape=shape, rows=2000, classes=2, separation=60.0, test_rows=400)
    x = source.train.x.reshape(2000, -1)
    means = [x[source.labels == label].mean(axis=0) for label in (0, 1)]
    # Of a thousand rows a class, a mean over 1,500 features is off by √(2 · 1500 / 1000) about;
    # the distance of two drawn means by a share of 1 / √(2 · 1500).
    assert np.linalg.norm(means[0] - means[1]) == pytest.approx(60, rel=0.1)
    assert (x[source.labels == 0] - means[0]).std() == pytest.approx(1, rel=0.01)
    tested = source.test.x.reshape(400, -1)
    nearest = np.argmin([np.square(tested - mean).sum(axis=1) for mean in means], axis=0)
    assert np.array_equal(nearest, source.test.y)


def test_more_than_memory_should_hold_is_refused_before_it_is_drawn() -> None:
    with pytest.raises(TaskError, match="classes of shape") as found:
        drawn(rows=10**9, shape=[10**9])
    assert "numbers" in found.value.why
    for options in ({"rows": 0}, {"shape": []}, {"shape": [0]}, {"classes": 1}):
        with pytest.raises(TaskError):
            drawn(**options)
