"""The machine's rate of float32 matrix products bounds every training benchmark.

Training runs one process a core with one BLAS thread each, so the limit is measured that way. Run
as a program, this module is one such process: for each line on standard input it multiplies for as
many seconds as the line says, and prints its GFLOP/s.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from benchmarks.figure import Figure
from benchmarks.machine import cores
from benchmarks.measure import Run, compare
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.tensor import blas

__all__ = ["SIZE", "multiplying", "sgemm_limit"]

SIZE = 1024
_WINDOW_S = 0.3
_REPEATS = 8


@benchmark(
    "sgemm-limit", "How many GFLOP/s do float32 matrix products reach with one process a core?"
)
def sgemm_limit(_peers: Peers) -> Iterator[Figure]:
    """All processes at once, against one alone: where cores share a clock or caches, it shows."""
    with multiplying(cores()) as together, multiplying(1) as alone:
        found = compare(together, {"one process": alone}, repeats=_REPEATS, best=max)
    yield Figure("sgemm-limit", found.value, "GFLOP/s", found.ratio, found.against)


@contextmanager
def multiplying(processes: int) -> Iterator[Run]:
    """A function that lets `processes` processes multiply 1024 x 1024 matrices at once, for 0.3 s,
    and returns the sum of their GFLOP/s; between its calls the processes sleep.
    """
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", __name__],
                    env=os.environ | one_thread,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
            for _ in range(processes)
        ]

        def together() -> float:
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(f"{_WINDOW_S}\n")
            return sum(_answer(worker) for worker in workers)

        yield together


def _answer(worker: subprocess.Popen[str]) -> float:
    assert worker.stdout is not None
    return float(worker.stdout.readline())


def _work() -> None:
    blas.prepare()  # the kernels that training uses
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, SIZE, SIZE), dtype=np.float32)
    product = left @ right
    for line in sys.stdin:
        begin, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begin) < float(line) or not done:
            np.matmul(left, right, out=product)
            done += 1
        print(2e-9 * SIZE**3 * done / elapsed, flush=True)


if __name__ == "__main__":
    _work()
