"""Samples of the primitives that measure and scale rows."""

from tests.tensor.samples.sample import integers, reals, sample

SAMPLES = [
    sample("row_norms2", reals(3, 4), keeps_dtype=False),
    sample("row_norms2", reals(130), keeps_dtype=False),
    sample("scale_rows", reals(3, 2), reals(3)),
    sample("scale_rows", reals(3, 2), reals(1)),
    sample("scale_rows", reals(2), integers(below=2)),
]
