"""The stored trajectories are those of the PyTorch that is installed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.make_optim import CASES, FILE, trajectory

pytest.importorskip("torch", reason="PyTorch is not installed (make test-oracle)")
pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("case", CASES)
def test_the_stored_trajectory_is_pytorchs(case: str) -> None:
    *_, name, options = CASES[case]
    with np.load(FILE) as stored:
        np.testing.assert_allclose(stored[case], trajectory(name, options), rtol=1e-12, atol=1e-14)
