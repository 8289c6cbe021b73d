"""Samples of gathering and scattering."""

from tests.tensor.samples.sample import Operand, integers, reals, sample

EVERY = ((0, 3, 1), (0, 4, 1))
PARTS = ((2, 2, -2), (1, 2, 2))


def places(rows: int, *, of: int) -> Operand:
    """Distinct indices."""
    return Operand(
        (rows,), lambda rng, full: rng.random((*full[:-1], of)).argsort()[..., :rows], False
    )


SAMPLES = [
    sample("slice", reals(3, 4), ranges=PARTS),
    sample("slice", reals(3, 4), ranges=EVERY),
    sample("slice", reals(3), ranges=((2, 3, -1),)),
    sample("slice", reals(3), ranges=((0, 0, 1),)),
    sample("unslice", reals(2, 2), ranges=PARTS, shape=(3, 4)),
    sample("paste", reals(3, 4), reals(2, 2), ranges=PARTS),
    sample("wrap_index", integers(3, 4, start=-3, below=3), length=3, axis=0),
    sample("item_numbers", integers(3, 4, below=3), count=3),
    sample("take", reals(4, 3), integers(3, below=4), axis=-2, rank=1),
    sample("take", reals(2, 3, 4), integers(2, 2, below=3), axis=-2, rank=2),
    sample("take", reals(2, 3), integers(below=3), axis=-1, rank=0),
    sample("take", reals(3), integers(0, below=3), axis=-1, rank=1),
    sample("scatter_sum", reals(5, 3), integers(5, below=3), axis=-2, rank=1, length=3),
    sample("scatter_sum", reals(2, 2, 2, 4), integers(2, 2, below=3), axis=-2, rank=2, length=3),
    sample("scatter_sum", reals(2), integers(below=2), axis=-1, rank=0, length=2),
    sample("put", reals(4), places(2, of=4), reals(2), unique=True),
    sample("put", reals(3), integers(4, below=3), reals(4), unique=False),
]
