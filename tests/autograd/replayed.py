"""What the tests of `compile` share: arrays, and a function that counts its runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Array", "counted", "drawn"]

Array = np.ndarray[Any, Any]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def counted(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """`function`, and a list that grows with each time it is run itself."""
    runs: list[int] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        runs.append(1)
        return function(*args, **kwargs)

    return call, runs
