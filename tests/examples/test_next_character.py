"""The next character: roles teach an LSTM more than counts know, and than one role could."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.federated import Task
from tests.examples.runs import commands, labels, run, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_roles_together_predict_better_than_one_of_them(tmp_path: Path, shared_data: Path) -> None:
    compared, _, exported = commands("next_character")
    found = run(
        [*compared.words, "--rounds", "4", "--roles", "1"],
        tmp_path,
        data=shared_data / "shakespeare",
    )
    assert found.code == 0, found.err
    assert labels(found.out) == labels(compared.shown)
    federated, alone, pairs, blank = (share for _, [share] in table(found.out))
    assert blank < alone < federated and pairs < federated
    assert "O Romeo, " in found.out
    assert run(exported.words, tmp_path, data=shared_data / "shakespeare").code == 0
    out = tmp_path / exported.words[exported.words.index("--out") + 1]
    kinds = [layer.name for layer in Task.from_toml(out).model.layers]
    assert kinds == ["embedding", "lstm", "every_step", "linear"]


def test_its_scenario_is_simulated_by_the_command(tmp_path: Path, shared_data: Path) -> None:
    _, simulated, _ = commands("next_character")
    found = run([*simulated.words, "--rounds", "1"], tmp_path, data=shared_data / "shakespeare")
    assert found.code == 0 and "accuracy" in found.out, found.err
