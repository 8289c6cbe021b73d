"""The scenarios of this folder with some of their settings changed, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim import RoundRecord, Scenario, World, own_models, scenario_with, simulate

__all__ = ["HERE", "Enough", "changed", "models_after", "records_until"]

HERE = Path(__file__).parent
"""Where the scenarios lie."""


class Enough(Exception):
    """Ends a run where it is good enough, and leaves its folder for whoever goes on."""


def changed(path: Path, settings: Mapping[str, Any], *, workers: int = 1) -> Scenario:
    """The scenario of a file with these settings, by their dotted paths."""
    scenario = scenario_with(path, settings)
    return replace(scenario, engine=replace(scenario.engine, workers=workers))


def records_until(scenario: Scenario, world: World, *, accuracy: float) -> Sequence[RoundRecord]:
    """The rounds of a run to the first that reaches this accuracy on the test set."""
    records: list[RoundRecord] = []

    def follow(record: RoundRecord) -> None:
        records.append(record)
        if record.test is not None and (record.test.accuracy or 0.0) >= accuracy:
            raise Enough

    with suppress(Enough):
        simulate(scenario, world=world, on_round=follow)
    return records


def models_after(scenario: Scenario, world: World) -> Mapping[str, NDArray[np.float32]]:
    """By client, the model (D,) that it uses itself after the last round of a run."""
    with TemporaryDirectory() as root:
        path = Path(root) / "run"
        simulate(scenario, folder=path, world=world)
        return own_models(scenario, world, path)
