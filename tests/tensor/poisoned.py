"""Replays whose scratch holds no number whenever a call begins: none may read what it left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedcore.autograd.binding import Binding
from fedcore.tensor.scratch import Scratch

__all__ = ["poison_scratch"]


def poison_scratch(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray[Any, Any]]:
    """From now on: all bytes are set in the parts of any scratch, which are returned."""
    parts: list[np.ndarray[Any, Any]] = []
    take, add = Scratch.take, Binding._add

    def taken(scratch: Scratch, size: int) -> np.ndarray[Any, Any]:
        parts.append(take(scratch, size))
        return parts[-1]

    def poison() -> None:
        for part in parts:
            part.fill(0xFF)

    def added(binding: Binding, step: Callable[[], Any], out: Any) -> None:
        add(binding, poison, out)
        add(binding, step, out)

    monkeypatch.setattr(Scratch, "take", taken)
    monkeypatch.setattr(Binding, "_add", added)
    return parts
