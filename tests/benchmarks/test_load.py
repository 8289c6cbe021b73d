"""What this process and its children spend is ours; the rest of the machine's work is foreign."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.load import Load

needs_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux's /proc")

SPENT_S = 0.1
TICK_S = 0.02  # counters advance by 0.01 s, and both ends are rounded
BURN = f"import time\nwhile time.process_time() < {SPENT_S}: pass"


def test_foreign_cores_are_the_machines_work_less_our_own_per_second() -> None:
    earlier, now = Load(100.0, 50.0, 7.0), Load(104.0, 58.0, 9.0)
    assert now.foreign_cores_since(earlier) == 1.5


def test_rounding_of_the_counters_never_makes_the_foreign_load_negative() -> None:
    assert Load(1.0, 5.0, 3.0).foreign_cores_since(Load(0.0, 5.0, 2.99)) == 0.0


@needs_proc
def test_our_own_work_is_counted_as_ours() -> None:
    before = Load.now()
    begin = time.process_time()
    while time.process_time() - begin < SPENT_S:
        pass
    after = Load.now()
    assert before is not None and after is not None
    assert after.own_s - before.own_s >= SPENT_S - TICK_S
    assert after.machine_s - before.machine_s >= SPENT_S - TICK_S


@needs_proc
def test_the_work_of_a_child_that_has_ended_is_counted_as_ours() -> None:
    before = Load.now()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    after = Load.now()
    assert before is not None and after is not None
    assert after.own_s - before.own_s >= SPENT_S - TICK_S


@needs_proc
def test_the_work_of_a_living_child_is_counted_as_ours() -> None:
    before = Load.now()
    waits = BURN + "\nprint('spent', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "spent\n"
        after = Load.now()
        child.communicate("\n")
    assert before is not None and after is not None
    assert after.own_s - before.own_s >= SPENT_S - TICK_S
