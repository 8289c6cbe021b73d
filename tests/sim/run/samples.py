"""Runs for tests of what a run leaves behind."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedsim.records import Mode
from fedsim.run.folder import RunPlan
from fedsim.run.reading import SavedState
from tests.sim.records.samples import digest, theta_after


def state_after(round: int) -> SavedState:
    return SavedState(
        rounds=round + 1,
        theta=theta_after(round),
        arrays={"momentum": np.full(3, round, np.float64)},
        texts={"clock": f"{10 * (round + 1)}"},
    )


def plan(name: str = "digits", **changes: Any) -> RunPlan:
    given: dict[str, Any] = {
        "name": name,
        "text": f'[task]\nname = "{name}"\n',
        "scenario": {"population": {"clients": 100}, "clock": {"seed": 1}},
        "scenario_digest": digest(name),
        "task": {"task": {"name": name, "seed": 0}},
        "task_digest": digest("task"),
        "seeds": {"task": 0, "partition": 3},
        "mode": Mode.FAST,
        "private": False,
    }
    return RunPlan(**given | changes)
