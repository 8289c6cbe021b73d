"""What is stored are the arrays of the PyTorch that is installed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden import make_per_example, make_schedules
from tests.golden.case import assert_equal_up_to_rounding, read, torch_results
from tests.golden.families import STORED

pytest.importorskip("torch", reason="PyTorch is not installed (make test-oracle)")
pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("case", STORED)
def test_stored_values_and_gradients_are_pytorchs(case: str) -> None:
    definition, file, name = STORED[case]
    assert_equal_up_to_rounding(read(file, name), torch_results(definition))


@pytest.mark.parametrize("task", make_per_example.TASKS)
def test_stored_gradients_of_examples_and_clients_are_pytorchs(task: str) -> None:
    assert_equal_up_to_rounding(
        read(make_per_example.FILE, task), make_per_example.torch_results(task)
    )


@pytest.mark.parametrize("case", make_schedules.CASES)
def test_stored_learning_rates_are_pytorchs(case: str) -> None:
    with np.load(make_schedules.FILE) as stored:
        np.testing.assert_allclose(stored[case], make_schedules.torch_rates(case), rtol=1e-14)
