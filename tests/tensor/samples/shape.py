"""Samples of the primitives that move elements without computing."""

from tests.tensor.samples.sample import reals, sample

SAMPLES = [
    sample("reshape", reals(3, 4), shape=(2, 6), rank=2),
    sample("reshape", reals(3, 4), shape=(12,), rank=2),
    sample("reshape", reals(), shape=(1, 1), rank=0),
    sample("permute_dims", reals(2, 3, 4), axes=(-1, -3, -2)),
    sample("permute_dims", reals(3, 3), axes=(-1, -2)),
    sample("expand", reals(3, 1), shape=(3, 4)),
    sample("expand", reals(1, 1, 2), shape=(3, 2, 2)),
    sample("flip", reals(3, 4), axes=(-2, -1)),
    sample("flip", reals(3), axes=(-1,)),
    sample("concatenate", reals(2, 3), reals(2, 1), reals(2, 2), axis=-1),
    sample("concatenate", reals(2, 3), reals(1, 3), axis=-2),
    sample("concatenate", reals(2), axis=-1),
    sample("narrow", reals(4, 3), axis=-2, start=1, stop=3),
    sample("narrow", reals(2, 4), axis=-1, start=0, stop=0),
    sample("pad", reals(2, 3), widths=((1, 0), (0, 2)), value=0.5),
    sample("align_rank", reals(2, 3), rank=4, core=2),
    sample("drop_leading", reals(1, 1, 3), count=2, core=3),
]
