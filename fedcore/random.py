"""Random numbers whose key is an argument: `fc.random.normal(key, shape)` repeats bit for bit."""

from fedcore.tensor.ops.random import bernoulli, normal, permutation, uniform
from fedcore.tensor.random import Key

__all__ = ["Key", "bernoulli", "normal", "permutation", "uniform"]
