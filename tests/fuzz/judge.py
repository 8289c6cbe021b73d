"""What a parser or a service may do with bytes of a stranger: use them, or refuse with a code.

Nothing else may come of them: no other exception, no long work, no memory but in proportion.
"""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedcore.errors import FedcoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MOST_SECONDS", "Finding", "Target", "judge", "measuring"]

MOST_SECONDS = 0.1  # of processor time: others may be using the machine
_TIMES_THE_INPUT = 16
_TRIES = 3  # of which the best counts: a first call imports, and any may collect garbage
_CODE = re.compile(r"FED-\d{4}")


class Finding(AssertionError):
    """Something that bytes of a stranger must not do."""


@dataclass(frozen=True)
class Target:
    """What takes bytes. `name`: of its folder of seeds. `spare_bytes`: memory that is its own."""

    name: str
    take: Callable[[bytes], object]
    spare_bytes: int = 1 << 20


@contextmanager
def measuring() -> Iterator[None]:
    """Counts allocations meanwhile, without which `judge` cannot."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def judge(target: Target, data: bytes) -> None:
    """Gives bytes to a target. Raises: Finding, or what the target must not raise."""
    most_bytes = target.spare_bytes + _TIMES_THE_INPUT * len(data)
    seconds, peak = _taken(target, data)
    for _ in range(_TRIES - 1):
        if seconds <= MOST_SECONDS and peak <= most_bytes:
            return
        again = _taken(target, data)
        seconds, peak = min(seconds, again[0]), min(peak, again[1])
    if seconds > MOST_SECONDS:
        raise Finding(f"{target.name}: {seconds:.3f} s for {len(data)} bytes")
    if peak > most_bytes:
        raise Finding(f"{target.name}: {peak} bytes of memory for {len(data)} bytes")


def _taken(target: Target, data: bytes) -> tuple[float, int]:
    """Seconds of processor time, and bytes of memory at most."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    start = time.process_time()
    try:
        target.take(data)
    except FedcoreError as error:
        if _CODE.fullmatch(error.code) is None:
            raise Finding(f"{target.name}: refused without a code: {error!r}") from error
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    return seconds, peak - before
