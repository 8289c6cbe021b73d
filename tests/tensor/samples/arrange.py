"""Samples of sorting."""

from tests.tensor.samples.sample import distinct, integers, sample

SAMPLES = [
    sample("argsort", distinct(3, 4), axis=-1),
    sample("argsort", integers(4, 3, below=3), axis=-2),
]
