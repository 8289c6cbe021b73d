"""Optimisers, learning-rate schedules and clipping: pure functions of flat vectors."""

from fedcore.optim.adaptive import Adagrad, Adam, AdamW, RMSprop, Yogi
from fedcore.optim.clipping import clip_by_norm, clip_by_value
from fedcore.optim.optimizer import Optimizer, State, dense
from fedcore.optim.schedules import (
    Schedule,
    constant,
    cosine,
    exponential,
    piecewise,
    step_decay,
    warmup,
)
from fedcore.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "State",
    "Yogi",
    "clip_by_norm",
    "clip_by_value",
    "constant",
    "cosine",
    "dense",
    "exponential",
    "piecewise",
    "step_decay",
    "warmup",
]
