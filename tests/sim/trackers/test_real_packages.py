"""What TensorBoard and MLflow themselves read of a run, where they are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedsim.records import Mode
from fedsim.trackers.mlflow import MLflowTracker
from fedsim.trackers.tensorboard import TensorBoardTracker
from fedsim.trackers.tracker import scalars_of
from tests.sim.records.samples import record
from tests.sim.trackers.test_trackers import environment, follow

__all__ = ["environment"]  # a fixture that these tests use as well

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def installed(module: str) -> Any:
    return pytest.importorskip(module, reason=f"{module} is not installed (the extra 'track')")


def test_tensorboard_reads_the_scalars_of_a_run_that_went_on(tmp_path: Path) -> None:
    name = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = installed(name).EventAccumulator
    follow(TensorBoardTracker(tmp_path), rounds=range(3))
    follow(TensorBoardTracker(tmp_path), rounds=range(2, 4))
    found = accumulator(str(tmp_path))
    found.Reload()
    for tag, value in scalars_of(record(3)).items():
        events = found.Scalars(tag)
        assert [event.step for event in events] == [0, 1, 2, 3], tag
        assert events[-1].value == pytest.approx(value, rel=1e-6)
    (settings,) = found.Tensors("settings")[-1:]
    assert Mode.FAST.words in settings.tensor_proto.string_val[0].decode()


def test_tensorboard_is_written_without_tensorflow(tmp_path: Path) -> None:
    installed("tensorboard")
    code = (
        "import sys; from pathlib import Path\n"
        "from fedsim.trackers.tensorboard import TensorBoardTracker\n"
        f"TensorBoardTracker(Path({str(tmp_path)!r}))\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mlflow_reads_the_metrics_of_a_run_that_went_on(tmp_path: Path) -> None:
    tracking = installed("mlflow.tracking")
    follow(MLflowTracker(tmp_path), rounds=range(2))
    follow(MLflowTracker(tmp_path), rounds=range(2, 4))
    client = tracking.MlflowClient(tracking_uri=tmp_path.as_uri())
    experiment = client.get_experiment_by_name("fedsim").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["scenario.clock.seed"] == "1"
    assert run.data.tags["mode"] == Mode.FAST.words
    for name, value in scalars_of(record(3)).items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == [0, 1, 2, 3], name
        assert run.data.metrics[name] == value
