"""Samples of the reductions."""

from tests.tensor.samples.sample import booleans, distinct, positive, reals, sample

SAMPLES = [
    sample("sum", reals(2, 3, 4), axis=(-3, -1), keepdims=False),
    sample("sum", reals(2, 3, 4), axis=(-3, -2), keepdims=True),
    sample("sum", reals(3, 3), axis=(-1,), keepdims=True),
    sample("sum", reals(0, 3), axis=(-2,), keepdims=False),
    sample("max", distinct(2, 3, 4), axis=(-2, -1), keepdims=False),
    sample("max", distinct(3, 4), axis=(-1,), keepdims=True),
    sample("min", distinct(3, 4), axis=(-2,), keepdims=False),
    sample("prod", positive(3, 4), axis=(-1,), keepdims=False),
    sample("prod", reals(2, 3, 2), axis=(-3, -2), keepdims=True),
    *(
        sample(name, booleans(3, 4), axis=axis, keepdims=keepdims)
        for name in ("any", "all")
        for axis, keepdims in (((-1,), False), ((-2, -1), True))
    ),
    *(
        sample(name, distinct(3, 4), axis=axis)
        for name in ("argmax", "argmin")
        for axis in (-1, -2)
    ),
    sample("cumsum", reals(3, 4), axis=-1),
    sample("cumsum", reals(3, 4), axis=-2),
]
