"""Children that are forked and die by SIGKILL at a call that changes the disk."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["is_killed"]

_CALLS = ("write", "fsync", "replace", "rename", "ftruncate", "mkdir")


def is_killed(act: Callable[[], object], at: int, when: str) -> bool:
    """Whether a child that acts died at its `at`-th call: before, after, or halfway through it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside BLAS's threads
        child = os.fork()
    if child == 0:
        try:
            _arm(at, when)
            act()
        except BaseException:
            os._exit(2)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"the child failed: {status}"
    return status != 0


def _arm(at: int, when: str) -> None:
    """Lets this process die at its `at`-th call that changes the disk."""
    seen = 0

    def dying(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen != at:
                return call(*args, **options)
            try:
                if when == "halfway" and name == "write":
                    call(args[0], args[1][: len(args[1]) // 2])
                elif when == "after":
                    call(*args, **options)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)

        return act

    for name in _CALLS:
        setattr(os, name, dying(getattr(os, name), name))
