"""Hospitals: who would rather train alone is served by a model of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.runs import commands, labels, run, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_hospital_that_averaging_serves_badly_gains_by_a_model_of_its_own(
    tmp_path: Path, shared_data: Path
) -> None:
    compared, *_ = commands("hospitals")
    found = run([*compared.words, "--splits", "2"], tmp_path, data=shared_data / "heart_disease")
    assert found.code == 0, found.err
    assert labels(found.out) == labels(compared.shown)
    rows = table(found.out)
    accuracy = {label: numbers for label, numbers in rows if label}
    loss = {label: below for (label, _), (_, below) in zip(rows[::2], rows[1::2], strict=True)}
    averaging, fedper, ditto, alone = accuracy
    switzerland = 2
    assert accuracy[averaging][switzerland] < accuracy[alone][switzerland]
    for own in (fedper, ditto):
        assert accuracy[own][switzerland] > accuracy[averaging][switzerland] + 0.03
        assert loss[own][switzerland] < loss[averaging][switzerland]
    # Alone, a hospital fits what few patients it has: every one of them is better off together.
    assert all(own < single for own, single in zip(loss[ditto], loss[alone], strict=True))


def test_its_scenario_is_simulated_by_the_command(tmp_path: Path, shared_data: Path) -> None:
    _, simulated = commands("hospitals")
    found = run([*simulated.words, "--rounds", "2"], tmp_path, data=shared_data / "heart_disease")
    assert found.code == 0 and "accuracy" in found.out, found.err
