"""What a program of one's own does wrong is its client's failure, as on a device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fedcore.errors import ProgramError
from fedcore.federated.models import initial_theta
from fedcore.federated.programs import TrainingRequest, TrainingResult
from fedsim.engine import Engine, Facts, Plan
from fedsim.engine.plan import WayName, program_at
from fedsim.world import World
from tests.sim.scenarios import scenario_of

SCENARIO = scenario_of(clients=3, goal=3)
WORLD = World.of(SCENARIO)
DELTA = np.ones(SCENARIO.task.dimension, np.float32)


@dataclass
class Told:
    """A program that answers client-1 in a way of its own, and all others well."""

    answer: Callable[[], Any]

    def train(self, request: TrainingRequest, /) -> Any:
        whose = WORLD.population[1].stream
        return self.answer() if request.stream == whose else TrainingResult(DELTA, 4)


SHORT = Told(lambda: TrainingResult(DELTA[:-1], 4))
LONG = Told(lambda: TrainingResult(np.ones(len(DELTA) + 1, np.float32), 4))
SCALAR = Told(lambda: TrainingResult(np.array(1.0, np.float32), 4))
INTEGERS = Told(lambda: TrainingResult(DELTA.astype(np.int64), 4))  # type: ignore[arg-type]
NOTHING = Told(lambda: None)
UNCOUNTED = Told(lambda: TrainingResult(DELTA, -4))
DIVERGED = Told(lambda: TrainingResult(DELTA * np.nan, 4))
LEAVING = Told(lambda: sys.exit(7))


@pytest.mark.parametrize("way", ["floats", "grid"])
@pytest.mark.parametrize(
    "name",
    ["SHORT", "LONG", "SCALAR", "INTEGERS", "NOTHING", "UNCOUNTED", "DIVERGED", "LEAVING"],
)
def test_what_is_no_update_fails_for_its_client_alone(name: str, way: WayName) -> None:
    plan = Plan(task=SCENARIO.task, way=way, programs={"local": f"{__name__}:{name}"})
    with Engine(plan, WORLD.population, workers=1) as engine:
        found = engine.sum(range(3), initial_theta(SCENARIO.task), Facts(0))
        others = engine.sum([0, 2], initial_theta(SCENARIO.task), Facts(0))
    assert [bool(report.failure) for report in found.reports] == [False, True, False]
    assert found.reports[1].failure.startswith("FED-")
    assert found.vector is not None and others.vector is not None
    assert found.vector.tobytes() == others.vector.tobytes()


@pytest.mark.parametrize(
    "text", ["raise RuntimeError('late')", "def (", "import sys; sys.exit(3)", "P = 1 / 0"]
)
def test_a_module_that_cannot_be_imported_holds_no_program(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "broken_program.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ProgramError, match="no program at"):
        program_at("broken_program:P")
