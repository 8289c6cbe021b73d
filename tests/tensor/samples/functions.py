"""Samples of the elementary functions."""

from tests.tensor.samples.sample import positive, reals, sample, samples_of

INSIDE = reals(3, 4, low=-0.9, high=0.9)

SAMPLES = [
    *samples_of("exp2", "sinh", "cosh", "arctan", "arcsinh", operands=(reals(3, 4),)),
    *samples_of("log2", "log10", operands=(positive(3, 4),)),
    *samples_of("tan", "arcsin", "arccos", "arctanh", operands=(INSIDE,)),
    sample("arccosh", reals(3, 4, low=1.5, high=3.0)),
    *samples_of("hypot", "arctan2", operands=(positive(3, 4), reals(4))),
]
