"""Learning rates as pure functions of the step number, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fedcore.errors import ArgumentError, user_line
from fedcore.optim.optimizer import check_at_least_zero, check_positive

__all__ = ["Schedule", "constant", "cosine", "exponential", "piecewise", "step_decay", "warmup"]

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """`lr` at every step."""
    check_at_least_zero("constant", lr=lr)
    return lambda step: lr


def step_decay(lr: float, *, every: int, factor: float = 0.1) -> Schedule:
    """`lr`, multiplied by `factor` after each `every` steps.

    >>> rate = step_decay(1.0, every=10, factor=0.5)
    >>> rate(0), rate(9), rate(10), rate(25)
    (1.0, 1.0, 0.5, 0.25)
    """
    check_at_least_zero("step_decay", lr=lr, factor=factor)
    _check_steps("step_decay", every=every)
    return lambda step: lr * factor ** (step // every)


def exponential(lr: float, *, rate: float) -> Schedule:
    """`lr`·`rate`^step."""
    check_at_least_zero("exponential", lr=lr)
    check_positive("exponential", rate=rate)
    return lambda step: lr * rate**step


def cosine(lr: float, *, steps: int, final: float = 0.0) -> Schedule:
    """From `lr` down to `final` over `steps` along half a cosine, then `final`.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
    equation 5, without restarts.
    """
    check_at_least_zero("cosine", lr=lr, final=final)
    _check_steps("cosine", steps=steps)
    return lambda step: (
        final + (lr - final) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
    )


def warmup(schedule: Schedule, *, steps: int) -> Schedule:
    """A linear rise to what `schedule` starts with, then `schedule` from its beginning.

    >>> rate = warmup(constant(1.0), steps=4)
    >>> [rate(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    _check_steps("warmup", steps=steps)
    return lambda step: schedule(0) * (step + 1) / steps if step < steps else schedule(step - steps)


def piecewise(boundaries: Sequence[int], rates: Sequence[float]) -> Schedule:
    """`rates[i]` while the step is below `boundaries[i]`, after the last boundary the last rate.

    Raises: ArgumentError unless the boundaries rise and there is one rate more.

    >>> rate = piecewise([2, 4], [1.0, 0.5, 0.1])
    >>> [rate(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.1]
    """
    edges, values = tuple(boundaries), tuple(rates)
    if len(values) != len(edges) + 1 or list(edges) != sorted(set(edges)):
        raise ArgumentError(
            f"piecewise: boundaries {edges} with {len(values)} rates",
            where=user_line(),
            why="rising boundaries cut the steps into one piece more than there are boundaries",
            fix="pass rising boundaries and one rate for each piece",
        )
    for value in values:
        check_at_least_zero("piecewise", rate=value)
    return lambda step: values[sum(step >= edge for edge in edges)]


def _check_steps(schedule: str, **counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ArgumentError(
                f"{schedule}: {name} is {count!r:.80}",
                where=user_line(),
                why="it counts steps",
                fix="pass an integer of at least 1",
            )
