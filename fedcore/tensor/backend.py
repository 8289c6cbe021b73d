"""Which array library computes: one handle per library, resolved by the type of an array.

NumPy is always there. CuPy is imported only when it is asked for by name, or when the caller has
imported it already and passes one of its arrays. Nothing moves between devices by itself: `asarray`
and `to_host` are the only ways.
"""

from __future__ import annotations

import functools
import sys
import threading
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from fedcore.errors import ArgumentError, DeviceError, InstallError

__all__ = ["Backend", "backend_of", "current_backend", "is_array", "to_host", "use_backend"]


@dataclass(frozen=True, slots=True)
class Backend:
    """An array library: its `name` ("numpy" or "cupy") and its module `xp`."""

    name: str
    xp: ModuleType

    def asarray(self, value: Any, *, dtype: Any = None) -> Any:
        """`value` as an array of this library: what lies on another device is copied."""
        if self.xp is np and not isinstance(value, np.ndarray) and is_array(value):
            value = to_host(value)
        return self.xp.asarray(value, dtype=dtype)

    def synchronize(self) -> None:
        """Wait until the device has finished what was asked of it."""
        if self.name == "cupy":
            self.xp.cuda.get_current_stream().synchronize()


NUMPY = Backend("numpy", np)


class _Default(threading.local):
    backend: Backend = NUMPY


_default = _Default()


def _cupy() -> Backend:
    try:
        import cupy  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise InstallError(
            "the backend 'cupy' is not installed",
            why=str(error),
            fix="on a machine with an NVIDIA GPU, in a checkout: pip install -e '.[gpu]'",
        ) from error
    try:
        devices, reason = cupy.cuda.runtime.getDeviceCount(), "CUDA counts 0 devices"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        devices, reason = 0, str(error)
    if not devices:
        raise DeviceError(
            "the backend 'cupy' finds no GPU",
            why=reason,
            fix="use the backend 'numpy', or check the driver with nvidia-smi",
        )
    return _backend(cupy)


@functools.cache
def _backend(cupy: ModuleType) -> Backend:
    return Backend("cupy", cupy)


def _named(name: str) -> Backend:
    if name == "numpy":
        return NUMPY
    if name == "cupy":
        return _cupy()
    raise ArgumentError(
        f"there is no backend {name!r}", why="the backends are 'numpy' and 'cupy'", fix="name one"
    )


class use_backend:
    """Make new tensors on the backend `name` in this thread, from now on or within a `with`.

    Raises: ArgumentError for an unknown name, InstallError or DeviceError if CuPy cannot run.

    >>> with use_backend("numpy") as backend:
    ...     backend.name
    'numpy'
    """

    def __init__(self, name: str) -> None:
        self._before = _default.backend
        _default.backend = _named(name)

    def __enter__(self) -> Backend:
        return _default.backend

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _default.backend = self._before


def current_backend() -> Backend:
    """The backend on which this thread makes new tensors."""
    return _default.backend


def is_array(value: object) -> bool:
    """Whether `value` is an array of a known library (CuPy counts only if it is imported)."""
    if isinstance(value, np.ndarray):
        return True
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def backend_of(array: Any) -> Backend:
    """The backend that owns `array`.

    Raises: DeviceError if no known library does.
    """
    if isinstance(array, np.ndarray):
        return NUMPY
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return _backend(cupy)
    raise DeviceError(
        f"{type(array).__module__}.{type(array).__qualname__} is not an array of a known backend",
        why="the backends are numpy and cupy",
        fix="convert it with numpy.asarray first",
    )


def to_host(value: Any) -> np.ndarray[Any, Any]:
    """`value`, an array or what NumPy makes one of, in main memory; a NumPy array as it is."""
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(backend_of(value).xp.asnumpy(value) if is_array(value) else value)
