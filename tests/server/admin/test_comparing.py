"""Two models side by side."""

from __future__ import annotations

import numpy as np

from fedserver.admin.comparing import compare


def test_an_array_of_zeros_has_no_cosine() -> None:
    (found,) = compare({"w": np.zeros(2, np.float32)}, {"w": np.ones(2, np.float32)})
    assert (found.largest, found.cosine) == (1.0, None)
