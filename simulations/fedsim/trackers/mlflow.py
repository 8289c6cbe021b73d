"""A run in MLflow: its settings as parameters, its rounds as metrics, its mode as a tag."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from fedcore.console import Json
from fedsim.records import Result, RoundRecord, RunRecord
from fedsim.report.settings import written
from fedsim.trackers.tracker import name_of, required, scalars_of

__all__ = ["MLflowTracker"]

_EXPERIMENT: Final = "fedsim"
_RUN: Final = "fedsim.run"
_LONGEST_VALUE: Final = 500
_MOST_PARAMETERS: Final = 100  # that MLflow takes in one call


class MLflowTracker:
    """Keeps a run in the experiment "fedsim" of an MLflow server, or in files.

    `target`: the address of a server, or a folder. A run that goes on is found again by its id;
    rounds that it repeats are logged once more, with the same values.
    Raises: InstallError without the package.
    """

    def __init__(self, target: str | Path) -> None:
        # MLflow sends its makers how it is used, and writes to plain files, the one store of its
        # slim package, only if told to. Who has set these variables has decided otherwise.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if isinstance(target, Path):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._entities = _module("mlflow.entities")
        address = target.absolute().as_uri() if isinstance(target, Path) else target
        self._client = _module("mlflow.tracking").MlflowClient(tracking_uri=address)
        self._id = ""

    def start(self, run: RunRecord, *, config: Mapping[str, Json], first_round: int = 0) -> None:
        """Raises: what MLflow raises."""
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{_RUN}` = '{name_of(run.id)}'")
        if found and first_round:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {_RUN: name_of(run.id), "mode": run.mode.words, "scenario": run.scenario_digest}
        made = self._client.create_run(experiment, run_name=name_of(run.id), tags=tags)
        self._id = made.info.run_id
        parameters = iter({name_of(k): written(v) for k, v in config.items()}.items())
        while part := list(islice(parameters, _MOST_PARAMETERS)):
            self._client.log_batch(
                self._id,
                params=[self._entities.Param(k, v[:_LONGEST_VALUE] or " ") for k, v in part],
            )

    def round(self, record: RoundRecord) -> None:
        """Raises: what MLflow raises."""
        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            self._id,
            metrics=[
                self._entities.Metric(name, value, now_ms, record.round)
                for name, value in scalars_of(record).items()
            ],
        )

    def end(self, result: Result | None) -> None:
        """Raises: what MLflow raises."""
        if result is not None:
            self._client.set_tag(self._id, "model", result.model)
            self._client.set_tag(self._id, "ended", result.ended)
        self._client.set_terminated(self._id, "FINISHED" if result is not None else "KILLED")

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(_EXPERIMENT)
        there = found.experiment_id if found else self._client.create_experiment(_EXPERIMENT)
        return str(there)


def _module(name: str) -> Any:
    return required(name, tracker="mlflow", package="mlflow-skinny")
