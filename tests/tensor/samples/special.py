"""Samples of activations, softmax, losses and norms."""

from tests.tensor.samples.sample import distinct, fixed, integers, reals, sample, samples_of

UNIT = {"low": -2.0, "high": 2.0, "error": ValueError, "what": "x", "why": "", "fix": ""}

SAMPLES = [
    sample("bounded", reals(3, 4), **UNIT),
    *samples_of("relu", "sigmoid", "softplus", "erf", operands=(distinct(3, 4),)),
    sample("relu", distinct(64, 64)),
    sample("where_positive", fixed(distinct(3, 4)), reals(3, 4)),
    *samples_of("softmax", "log_softmax", operands=(reals(3, 4),)),
    *samples_of("softmax", "log_softmax", operands=(reals(3),)),
    sample("softmax_pullback", reals(3, 4), reals(3, 4)),
    sample("softmax_cross_entropy", reals(3, 4), integers(3, below=4), smoothing=0.0),
    sample("softmax_cross_entropy", reals(2, 3, 3), integers(2, 3, below=3), smoothing=0.1),
    sample("softmax_cross_entropy", reals(4), integers(below=4), smoothing=0.0),
    sample(
        "softmax_cross_entropy_pullback",
        reals(3),
        reals(3, 4),
        integers(3, below=4),
        smoothing=0.1,
    ),
]
