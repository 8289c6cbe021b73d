"""Samples of the primitives that make tensors."""

from tests.tensor.samples.sample import fixed, integers, reals, sample

SAMPLES = [
    sample("full", reals(), shape=(3, 2)),
    sample("full", fixed(reals()), shape=()),
    sample("arange", integers(below=5), integers(below=3, start=1), count=4),
    sample("arange", fixed(reals()), fixed(reals()), count=3),
]
