"""A campaign for every target: atheris derives inputs from the seeds, by what they make run.

FUZZ_RUNS says how many inputs there are in all, by default 10⁶.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fuzz.formats import FORMATS

RUNS = int(os.environ.get("FUZZ_RUNS", "1000000"))
# Of all inputs; what is left is shared by the others alike. These are the slow ones.
SHARES = {"rpcs": 0.15, "ledgers": 0.02, "ledger_records": 0.02, "scenarios": 0.05, "tasks": 0.05}
OTHERS = [target.name for target in FORMATS if target.name not in SHARES]
NAMES = [*SHARES, *OTHERS]
# libFuzzer bounds the most memory that a process had, and the kernel hands that down from whoever
# starts a program. After an hour of tests that is 2.3 GB here, so a small process is put between.
_APART = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
_MOST_KB = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def apart(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in a folder, as a program that has inherited no memory."""
    return subprocess.run(
        [sys.executable, "-c", _APART, sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def runs_of(name: str) -> int:
    share = SHARES.get(name, (1 - sum(SHARES.values())) / len(OTHERS))
    return 1 + int(RUNS * share)


def test_the_campaigns_are_as_many_inputs_as_was_said() -> None:
    assert RUNS <= sum(map(runs_of, NAMES)) <= RUNS + len(NAMES)


def test_a_campaign_is_not_charged_with_the_memory_of_whoever_runs_it(tmp_path: Path) -> None:
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert int(apart(["-S", "-c", _MOST_KB], tmp_path).stdout) < ours / 2


def test_what_a_campaign_says_at_its_end_is_what_is_told(tmp_path: Path) -> None:
    assert apart(["-c", "import sys; sys.exit(71)"], tmp_path).returncode == 71


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_a_campaign_finds_nothing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed (the extra 'fuzz')")
    runs = runs_of(name)
    done = apart(["-m", "tests.fuzz", name, str(runs)], tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    assert executed is not None
    assert int(executed[1]) >= runs
