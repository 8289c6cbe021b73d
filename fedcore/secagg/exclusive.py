"""A machine takes one call at a time: two that overlap could each promise what is given once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from fedcore.errors import StageError

__all__ = ["Exclusive", "Lock", "exclusive"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Exclusive(Protocol):
    """What has the lock under which `exclusive` methods run."""

    _lock: Lock


_E = TypeVar("_E", bound=Exclusive)


def exclusive(method: Callable[Concatenate[_E, _P], _R]) -> Callable[Concatenate[_E, _P], _R]:
    """The method, refused with StageError while another call of the same object is not done.

    Be it another thread's, or one from within, as of a policy's callback. Refused rather than
    delayed: a driver whose calls overlap also performs their effects in no certain order.
    """

    @wraps(method)
    def guarded(self: _E, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not self._lock.acquire(blocking=False):
            raise StageError(
                f"{method.__name__} is called while another call is not done",
                why="what a machine gives once, two calls at a time could each give",
                fix="make one call after the other, and perform its effects in between",
            )
        try:
            return method(self, *args, **kwargs)
        finally:
            self._lock.release()

    return guarded
