"""A run that many tests look at, and some damage a copy of."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim import Outcome, simulate
from tests.sim.scenarios import scenario_of


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """What `scenario_of()` came to, and its folder, which is to be copied before it is changed."""
    path = tmp_path_factory.mktemp("small") / "run"
    return simulate(scenario_of(), folder=path), path
