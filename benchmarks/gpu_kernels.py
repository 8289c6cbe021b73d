"""Our CUDA kernels move memory: their bytes a second beside those of a plain copy on the card.

Counted are the fewest bytes that the work must move: each input read once, each result written
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.figure import Figure
from benchmarks.measure import Run, compare
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.tensor.backend import use_backend
from fedcore.tensor.cuda.rows import add_rows
from fedcore.tensor.cuda.windows import Windows, fold, route_to_maxima, unfold

__all__ = ["gpu_kernels"]

_REPEATS = 5
_LAUNCHES = 20
_IMAGES = (1000, 14, 14, 32)  # of fifty clients with batches of 20, before a second convolution
_COPIED = 1 << 30


@benchmark("gpu-kernels", "How near to a copy's rate do our CUDA kernels move memory?")
def gpu_kernels(_peers: Peers) -> Iterator[Figure]:
    """Float32: windows of 5 x 5 and of 2 x 2 on 1,000 images of 14 x 14 x 32, and rows of 512."""
    with use_backend("cupy") as gpu:
        xp = gpu.xp
        source = xp.ones(_COPIED // 4, np.float32)
        target = xp.empty_like(source)
        copy = _rate(xp, partial(xp.copyto, target, source), 2 * _COPIED)
        images = xp.asarray(_normal(_IMAGES))
        around = Windows((14, 14), (14, 14), (5, 5), (1, 1), corner=(2, 2))
        halves = Windows((14, 14), (7, 7), (2, 2), (2, 2))
        columns = unfold(xp, images, around)
        pooled = xp.asarray(_normal((1000, 7, 7, 32)))
        places = xp.asarray(np.random.default_rng(0).integers(0, 10_000, 100_000))
        values, table = xp.asarray(_normal((100_000, 512))), xp.zeros((10_000, 512), np.float32)
        for name, work, arrays in (
            ("unfold", partial(unfold, xp, images, around), (images, columns)),
            ("fold", partial(fold, xp, columns, around), (images, columns)),
            (
                "route-to-maxima",
                partial(route_to_maxima, xp, pooled, images, halves),
                (pooled, images, images),
            ),
            ("add-rows", partial(add_rows, xp, places, values, table), (values, table)),
        ):
            ours = _rate(xp, work, sum(int(array.nbytes) for array in arrays))
            found = compare(ours, {"a copy": copy}, repeats=_REPEATS, best=max)
            yield Figure(f"gpu-kernels.{name}", found.value, "GB/s", found.ratio, found.against)


def _rate(xp: Any, work: Callable[[], Any], moved: int) -> Run:
    """A run that tells the gigabytes a second of work that moves so many bytes, by the card's own
    clock.
    """
    work()

    def run() -> float:
        begin, end = xp.cuda.Event(), xp.cuda.Event()
        begin.record()
        for _ in range(_LAUNCHES):
            work()
        end.record()
        end.synchronize()
        return _LAUNCHES * moved / (1e6 * float(xp.cuda.get_elapsed_time(begin, end)))

    return run


def _normal(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
