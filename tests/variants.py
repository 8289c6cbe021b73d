"""Of variants of one test some are quick; the others wait for `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["mostly_slow"]


def mostly_slow(values: Iterable[Any], *, quick: int = 1) -> list[Any]:
    """Arguments for `parametrize`: the first `quick` of them, and the others marked slow."""
    found = list(values)
    return [
        *found[:quick],
        *(
            pytest.param(*value, marks=pytest.mark.slow)
            if isinstance(value, tuple)
            else pytest.param(value, marks=pytest.mark.slow)
            for value in found[quick:]
        ),
    ]
