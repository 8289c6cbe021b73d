"""Samples of the flat vector's primitives."""

from tests.tensor.samples.sample import reals, sample

SAMPLES = [
    sample("leaf", reals(8), offset=2, shape=(2, 3)),
    sample("leaf", reals(4), offset=1, shape=()),
    sample("assemble", reals(2, 2), reals(3), offsets=(1, 6), ranks=(2, 1), size=10),
    sample("assemble", reals(3), reals(), offsets=(0, 3), ranks=(1, 0), size=4),
    sample(
        "add_scaled",
        *(reals(10), reals()),
        *(reals(2, 3), reals(2, 2), reals(3)),
        layout=((1, (3, 2), 1), (7, (3,), 0)),
    ),
]
