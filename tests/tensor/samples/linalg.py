"""Samples of the matrix products."""

from tests.tensor.samples.sample import reals, sample

SAMPLES = [
    sample("matmul", reals(3, 4), reals(4, 5)),
    sample("matmul", reals(3, 3), reals(3, 3)),
    sample("matmul", reals(2, 3, 4), reals(2, 4, 2)),
    sample("matmul", reals(1, 3, 4), reals(2, 4, 2)),
    sample("matmul", reals(3, 1), reals(1, 4)),
    sample("matmul", reals(1, 4), reals(4, 3)),
    sample("matmul", reals(3, 1, 4), reals(1, 4, 3)),
    sample("matmul", reals(0, 4), reals(4, 3)),
    sample("matmul", reals(2, 500), reals(500, 250)),
]
