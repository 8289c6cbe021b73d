"""A census: a promise to every person costs little, is kept, and beats what one place can learn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.runs import commands, labels, run, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_privacy_costs_a_few_points_and_spends_no_more_than_it_promised(
    tmp_path: Path, shared_data: Path
) -> None:
    compared, *_ = commands("census")
    found = run(
        [*compared.words, "--rounds", "20", "--epsilon", "1.0"],
        tmp_path,
        data=shared_data / "adult",
    )
    assert found.code == 0, found.err
    rows = table(found.out)
    private, public, alone, always = (numbers for _, numbers in rows)
    assert labels(found.out) == [labels(compared.shown)[0], *labels(compared.shown)[3:]]
    assert 0.5 < private[1] <= 1.0 and public[1] == float("inf")
    # Noise is drawn afresh in every run: margins are many times its spread.
    assert private[0] > always[0] + 0.03 and private[0] > public[0] - 0.04
    assert alone[0] < private[0]


def test_its_scenarios_are_simulated_by_the_commands(tmp_path: Path, shared_data: Path) -> None:
    _, *simulated = commands("census")
    assert len(simulated) == 2
    for command in simulated:
        found = run([*command.words, "--rounds", "2"], tmp_path, data=shared_data / "adult")
        assert found.code == 0 and "accuracy" in found.out, found.err
