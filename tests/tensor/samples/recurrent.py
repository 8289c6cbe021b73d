"""Samples of the recurrent networks."""

from tests.tensor.samples.sample import fixed, reals, sample

SAMPLES = [
    sample("rnn", reals(3, 2, 4), reals(4, 4), reals(2, 4), activation="tanh"),
    sample("rnn", reals(2, 1, 2), reals(2, 2), reals(1, 2), activation="relu"),
    sample(
        "rnn_pullback",
        fixed(reals(3, 2, 4)),
        fixed(reals(3, 2, 4, low=-0.9, high=0.9)),
        fixed(reals(4, 4)),
        activation="tanh",
    ),
    sample("lstm", reals(3, 2, 8), reals(2, 8), reals(2, 2), reals(2, 2)),
    sample("lstm", reals(2, 1, 4), reals(1, 4), reals(1, 1), reals(1, 1)),
    sample(
        "lstm_pullback",
        fixed(reals(3, 2, 12)),
        fixed(reals(3, 2, 12, low=0.1, high=0.9)),
        fixed(reals(2, 8)),
        fixed(reals(2, 2)),
    ),
    sample("gru", reals(3, 2, 6), reals(2, 6), reals(6), reals(2, 2)),
    sample("gru", reals(2, 1, 3), reals(1, 3), reals(3), reals(1, 1)),
    sample(
        "gru_pullback",
        fixed(reals(3, 2, 10)),
        fixed(reals(3, 2, 10, low=0.1, high=0.9)),
        fixed(reals(2, 6)),
        fixed(reals(2, 2)),
    ),
]
