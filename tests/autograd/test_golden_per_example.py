"""Gradients of single examples and clients, and their curvature, are PyTorch's, as stored."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.case import assert_equal_up_to_rounding, read
from tests.golden.make_per_example import FILE, TASKS, our_results


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("task", TASKS)
def test_gradients_of_examples_and_clients_equal_pytorchs(
    task: str, chunk: int | None, dtype: type
) -> None:
    assert_equal_up_to_rounding(our_results(task, dtype, chunk), read(FILE, task))


@pytest.mark.parametrize("task", TASKS)
def test_the_stored_norms_lie_on_both_sides_of_the_clipping_norm(task: str) -> None:
    norms = read(FILE, task)["norms"]
    assert norms.min() < TASKS[task].clip_norm < norms.max()
