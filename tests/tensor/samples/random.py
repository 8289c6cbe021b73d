"""Samples of the random draws."""

import numpy as np

from tests.tensor.samples.sample import sample, words

FLOAT64 = np.dtype(np.float64)

SAMPLES = [
    sample("uniform", words(), shape=(3, 2), dtype=FLOAT64, keeps_dtype=False),
    sample("uniform", words(), shape=(), dtype=np.dtype(np.float32)),
    sample("normal", words(), shape=(2, 3), dtype=FLOAT64, keeps_dtype=False),
    sample("bernoulli", words(), shape=(5,), keep=0.5),
    sample("dropout_mask", words(), shape=(3, 3), keep=0.75, dtype=FLOAT64, keeps_dtype=False),
    sample("permutation", words(), count=4),
    sample("permutation", words(), count=0),
    sample("fold_words", words(), path=("layer", 2)),
]
