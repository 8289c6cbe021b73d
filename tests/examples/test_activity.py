"""Activity: strangers are recognised by what many people taught, not by what one did."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.federated import Task
from tests.examples.runs import commands, labels, run, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_federated_model_knows_strangers_better_than_any_persons_own(
    tmp_path: Path, shared_data: Path
) -> None:
    compared, *_ = commands("activity")
    found = run([*compared.words, "--rounds", "8"], tmp_path, data=shared_data / "har_geotec")
    assert found.code == 0, found.err
    assert labels(found.out) == labels(compared.shown)
    federated, pooled, best, mean, worst, commonest = (share for _, [share] in table(found.out))
    assert worst < mean < best < federated
    assert federated > commonest + 0.2
    assert abs(federated - pooled) < 0.08


def test_its_task_is_simulated_and_handed_out_by_the_commands(
    tmp_path: Path, shared_data: Path
) -> None:
    _, simulated, exported = commands("activity")
    assert (
        run([*simulated.words, "--rounds", "2"], tmp_path, data=shared_data / "har_geotec").code
        == 0
    )
    assert run(exported.words, tmp_path, data=shared_data / "har_geotec").code == 0
    out = tmp_path / exported.words[exported.words.index("--out") + 1]
    assert Task.from_toml(out).resolved().secure_aggregation is not None
