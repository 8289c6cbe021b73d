"""The demo's claims: averaging beats training alone, the server needs sums alone, a run repeats."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fedcore.checkpoint import load_checkpoint
from fedcore.secagg import LostAt, run_session

pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")


@pytest.fixture
def demo(root: Path) -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("demo", root / "examples/federated_digits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def accuracy(output: str, row: str) -> float:
    found = re.search(rf"{row}\s+([\d.]+)%", output)
    assert found is not None, output
    return float(found.group(1))


def test_the_federation_beats_its_clients_and_repeats_to_the_bit(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = []
    for name in ("first", "second"):
        demo.main(["--rounds", "15", "--out", str(tmp_path / name)])
        models.append(load_checkpoint(tmp_path / name / "model.safetensors", finite=True).arrays)
    output = capsys.readouterr().out
    assert output.count("round 15/15") == 2
    assert output.count("designed for a malicious server; argument unreviewed") == 2
    assert (
        len(re.findall(r"lost 2: writer \d+ \w+ its \w+, writer \d+ \w+ its \w+\n", output)) == 30
    )
    federated = accuracy(output, "federated, images stay apart")
    assert federated > 85 and federated > accuracy(output, "each block alone, mean") + 10
    assert accuracy(output, "centralised, images pooled") > 90
    for path, value in models[0].items():
        np.testing.assert_array_equal(value, models[1][path])


def test_a_run_loses_clients_in_every_stage_and_other_ones_every_time(demo: ModuleType) -> None:
    losses = [demo.draw_losses(index, 14) for index in range(40)]
    assert all(len(lost) == demo.LOST for lost in losses)
    assert {at for lost in losses for at in lost.values()} == set(LostAt) == set(demo.PLACES)
    assert len({tuple(lost) for lost in losses}) > 30
    assert demo.draw_losses(3, 14) == losses[3]


def test_the_sums_give_the_survivors_mean_to_the_precision_of_float32(demo: ModuleType) -> None:
    draw = np.random.default_rng(5)
    start = draw.normal(0, 0.2, 300).astype(np.float32)
    ends = start + draw.normal(0, 0.05, (14, 300)).astype(np.float32)
    images = draw.integers(100, 105, 14)
    config = demo.make_config(300, 14)
    limit = config.layout.blocks[0].limit
    reports = [
        demo.report(start, end, int(n), limit=limit) for end, n in zip(ends, images, strict=True)
    ]
    lost = {3: LostAt.UPLOADING, 9: LostAt.ANSWER}
    model, length = demo.aggregate(start, run_session(reports, config=config, dropouts=lost))
    kept = np.arange(14) != 3  # who is lost after its upload is in the sum
    weights = images[kept] / images[kept].sum()
    # Half a unit in the last place of float32, and half a step of the integers a client.
    np.testing.assert_allclose(model, weights @ ends[kept].astype(float), rtol=6e-8, atol=5e-9)
    expected = weights @ np.linalg.norm((ends - start)[kept], axis=1)
    assert length == pytest.approx(expected, abs=1e-6)
