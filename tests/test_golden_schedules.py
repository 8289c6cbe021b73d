"""Learning-rate schedules are those of PyTorch, as stored."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.make_schedules import CASES, FILE, our_rates


@pytest.mark.parametrize("case", CASES)
def test_every_steps_rate_is_pytorchs(case: str) -> None:
    with np.load(FILE) as stored:
        # PyTorch multiplies the rate of the step before, so that its roundings add up over 12 steps
        np.testing.assert_allclose(our_rates(case), stored[case], rtol=1e-13)
