"""A campaign for every target: atheris derives inputs from the seeds, by what they make run.

FUZZ_RUNS says how many inputs there are in all, by default 10⁶.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.formats import FORMATS

RUNS = int(os.environ.get("FUZZ_RUNS", "1000000"))
# Of all inputs; what is left is shared by the others alike. These are the slow ones.
SHARES = {"rpcs": 0.15, "ledgers": 0.02, "ledger_records": 0.02, "scenarios": 0.05, "tasks": 0.05}
OTHERS = [target.name for target in FORMATS if target.name not in SHARES]
NAMES = [*SHARES, *OTHERS]


def runs_of(name: str) -> int:
    share = SHARES.get(name, (1 - sum(SHARES.values())) / len(OTHERS))
    return 1 + int(RUNS * share)


def test_the_campaigns_are_as_many_inputs_as_was_said() -> None:
    assert RUNS <= sum(map(runs_of, NAMES)) <= RUNS + len(NAMES)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_a_campaign_finds_nothing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed (the extra 'fuzz')")
    runs = runs_of(name)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, str(runs)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    assert executed is not None
    assert int(executed[1]) >= runs
