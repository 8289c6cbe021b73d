"""Handwriting: writers together teach what none of them could; without MNIST there are digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.runs import commands, labels, run, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_writers_together_beat_the_best_of_them(tmp_path: Path, shared_data: Path) -> None:
    compared, simulated = commands("handwriting")
    found = run([*compared.words, "--rounds", "20"], tmp_path, data=shared_data / "mnist_writers")
    assert found.code == 0 and found.err == "", found.err
    assert labels(found.out) == labels(compared.shown)
    federated, pooled, best, mean = (share for _, [share] in table(found.out))
    assert 0.85 < federated < pooled and mean <= best < federated
    assert (
        run([*simulated.words, "--rounds", "2"], tmp_path, data=shared_data / "mnist_writers").code
        == 0
    )


def test_where_mnist_is_absent_it_says_so_and_takes_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    compared, _ = commands("handwriting")
    found = run([*compared.words, "--rounds", "20"], tmp_path)
    assert found.code == 0, found.err
    assert found.err.startswith("FED-1201") and "--data FOLDER" in found.err
    assert "scikit-learn's digits" in found.err
    federated, pooled, best, mean = (share for _, [share] in table(found.out))
    assert mean <= best < federated < pooled
