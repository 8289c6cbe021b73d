"""Write schedules.npz: the learning rates of PyTorch's schedulers, step by step.

Run with an interpreter that has PyTorch: python -m tests.golden.make_schedules
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedcore import optim
from tests.golden.case import Array

FILE = Path(__file__).with_name("schedules.npz")
LR, STEPS, WARM = 0.4, 12, 4


def _warm(scheduler: Any, optimizer: Any) -> Any:
    """The linear rise: its first rate is one of `WARM` equal parts, its last the whole."""
    return scheduler.LinearLR(optimizer, start_factor=1 / WARM, total_iters=WARM - 1)


def _warm_cosine(scheduler: Any, optimizer: Any) -> Any:
    """The cosine begins where the rise has ended: their milestone is our number of steps."""
    cosine = scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - WARM, eta_min=0.05)
    return scheduler.SequentialLR(
        optimizer, [_warm(scheduler, optimizer), cosine], milestones=[WARM]
    )


# case -> (our schedule, the maker of PyTorch's from `torch.optim.lr_scheduler` and an optimiser)
CASES: Mapping[str, tuple[optim.Schedule, Callable[[Any, Any], Any]]] = {
    "step_decay": (
        optim.step_decay(LR, every=3, factor=0.5),
        lambda scheduler, o: scheduler.StepLR(o, step_size=3, gamma=0.5),
    ),
    "exponential": (
        optim.exponential(LR, rate=0.9),
        lambda scheduler, o: scheduler.ExponentialLR(o, gamma=0.9),
    ),
    "cosine": (
        optim.cosine(LR, steps=STEPS, final=0.1),
        lambda scheduler, o: scheduler.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.1),
    ),
    "piecewise": (
        optim.piecewise([2, 7], [LR, LR / 10, LR / 100]),
        lambda scheduler, o: scheduler.MultiStepLR(o, milestones=[2, 7], gamma=0.1),
    ),
    "warmup": (optim.warmup(optim.constant(LR), steps=WARM), _warm),
    "warmup_cosine": (
        optim.warmup(optim.cosine(LR, steps=STEPS - WARM, final=0.05), steps=WARM),
        _warm_cosine,
    ),
}


def our_rates(case: str) -> Array:
    """The rates (STEPS,) of our schedule."""
    return np.array([CASES[case][0](step) for step in range(STEPS)])


def torch_rates(case: str) -> Array:
    """The rates (STEPS,) with which PyTorch's optimiser steps."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = CASES[case][1](torch.optim.lr_scheduler, optimizer)
    rates = np.empty(STEPS)
    for step in range(STEPS):
        rates[step] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()
    return rates


if __name__ == "__main__":
    np.savez_compressed(FILE, **{case: torch_rates(case) for case in CASES})
