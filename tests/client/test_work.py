"""The thread of local work: one for all rounds, and nothing of a round stays in it."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fedclient.expenses import Expenses
from fedclient.progress import Stage
from fedclient.stopping import Stop
from fedclient.work import Work, Worker
from fedcore.errors import CancelledError


class Asked:
    """Work that says in which thread it was done."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.thread: threading.Thread | None = None
        self._failure = failure

    def run(self) -> list[Any]:
        self.thread = threading.current_thread()
        if self._failure is not None:
            raise self._failure
        return [np.zeros(1000, np.int64)]


class Free(Expenses):
    """Expenses that nobody charges."""

    def __init__(self) -> None:
        pass

    def settle(self, **cost: Any) -> None:
        pass


def begin(worker: Worker, asked: Asked) -> Future[list[Any]]:
    return worker.begin(cast(Work, asked))


def test_all_work_is_done_in_one_thread_also_after_a_failure() -> None:
    worker = Worker()
    asked = [Asked(), Asked(CancelledError("stopped")), Asked(SystemExit()), Asked()]
    found = [begin(worker, work) for work in asked]
    assert len(found[0].result(10)) == len(found[3].result(10)) == 1
    for i, kind in ((1, CancelledError), (2, SystemExit)):
        with pytest.raises(kind):
            found[i].result(10)
    threads = {work.thread for work in asked}
    assert len(threads) == 1 and threads != {threading.current_thread()}
    worker.close()
    (thread,) = threads
    assert thread is not None and thread.daemon
    thread.join(10)
    assert not thread.is_alive()


def test_a_thread_that_waits_holds_no_vector() -> None:
    worker = Worker()
    future = begin(worker, Asked())
    kept = weakref.ref(future.result(10)[0])
    del future
    begin(worker, last := Asked()).result(10)  # what was done before it is over by now
    assert last.thread is not None
    gc.collect()
    assert kept() is None
    worker.close()


HOLES = """
from pathlib import Path
import numpy as np
from fedclient.memory import return_large_arrays
def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
{first}
np.ones(1_000_000, np.float32)  # malloc learns from what is freed
before = resident_mb()
kept = [(np.ones(1_000_000, np.float32), bytearray(100_000)) for _ in range(20)]
kept = [small for _, small in kept]
print(resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_arrays_that_were_freed_between_others_go_back_to_the_system() -> None:
    def left_mb(first: str) -> float:
        command = [sys.executable, "-c", HOLES.format(first=first)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return float(done.stdout)

    assert left_mb("") > 40
    assert left_mb("assert return_large_arrays()") < 10


def test_work_that_was_done_does_not_hold_who_asked_for_it() -> None:
    class Asking:
        def __init__(self) -> None:
            self.work = Work(
                cast(Any, None),
                cast(Any, None),
                round=0,
                dataset=cast(Any, None),
                contributor=cast(Any, None),
                stream=0,
                connection=cast(Any, None),
                models=Path(),
                stop=Stop(),
                expenses=Free(),
                tell=self.tell,
                measured=self.tell_measured,
                failed=self.failed,
            )

        def tell(self, stage: Stage, share: float | None) -> None:
            raise CancelledError("stopped")

        def tell_measured(self, sums: Mapping[str, float]) -> None:
            raise AssertionError("nothing was measured")

        def failed(self, error: Exception) -> None:
            raise AssertionError("nothing was trained")

    asking = Asking()
    kept = weakref.ref(asking)
    gc.disable()  # which would free a cycle, at some time
    try:
        with suppress(CancelledError):
            asking.work.run()
        del asking
        assert kept() is None
    finally:
        gc.enable()
