"""How a server's threads take turns, and who decides it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs Linux's scheduler")

FOUND = (
    "import os, threading; from fedserver.turns import wait_for_turns; {before} wait_for_turns();"
    "found = []; one = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)));"
    "one.start(); one.join(); assert found == [os.{wanted}], found"
)


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ("", "SCHED_BATCH"),
        ("os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0));", "SCHED_IDLE"),
    ],
)
def test_threads_wait_for_their_turn_unless_somebody_chose_otherwise(
    before: str, wanted: str
) -> None:
    program = FOUND.format(before=before, wanted=wanted)
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_server_that_may_not_choose_goes_on() -> None:
    refused = "import os; os.sched_setscheduler = lambda *_: os.open('/nowhere', 0);"
    program = FOUND.format(before=refused, wanted="SCHED_OTHER")
    subprocess.run([sys.executable, "-c", program], check=True)
