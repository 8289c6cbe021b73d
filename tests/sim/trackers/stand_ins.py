"""Stand-ins for packages that need not be installed: they write down what they are told."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


def namespace(**values: Any) -> SimpleNamespace:
    """A message as its fields."""
    return SimpleNamespace(**values)


class Writer:
    """A writer of event files."""

    made: list[Writer]

    def __init__(self, folder: str) -> None:
        self.folder, self.events, self.closed = folder, [], False  # type: ignore[var-annotated]
        self.made.append(self)

    def add_event(self, event: Any) -> None:
        assert not self.closed
        self.events.append(event)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class _Message:
    """A message with others nested in it."""

    START = 1
    Value = staticmethod(namespace)
    PluginData = staticmethod(namespace)
    Dim = staticmethod(namespace)

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Client:
    """A client of MLflow that keeps what it is told."""

    made: list[Client]
    experiments: dict[str, str]
    runs: dict[str, Any]

    def __init__(self, *, tracking_uri: str) -> None:
        self.address = tracking_uri
        self.made.append(self)

    def get_experiment_by_name(self, name: str) -> Any:
        there = self.experiments.get(name)
        return namespace(experiment_id=there) if there else None

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, "7")

    def search_runs(self, experiments: list[str], query: str) -> list[Any]:
        assert experiments == ["7"]
        return [run for run in self.runs.values() if query == f"tags.`fedsim.run` = '{run.name}'"]

    def create_run(self, experiment: str, *, run_name: str, tags: dict[str, str]) -> Any:
        assert experiment == "7"
        info = namespace(run_id=str(len(self.runs)))
        made = namespace(
            info=info, name=run_name, tags=tags, params={}, metrics=[], status="RUNNING"
        )
        self.runs[info.run_id] = made
        return made

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        self.runs[run].params.update(params)
        self.runs[run].metrics += metrics

    def update_run(self, run: str, *, status: str) -> None:
        self.runs[run].status = status

    def set_tag(self, run: str, name: str, value: str) -> None:
        self.runs[run].tags[name] = value

    def set_terminated(self, run: str, status: str) -> None:
        self.runs[run].status = status


def install(patch: pytest.MonkeyPatch, modules: dict[str, dict[str, Any]]) -> None:
    """Puts modules with these contents where imports find them."""
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        patch.setitem(sys.modules, name, module)


def install_tensorboard(patch: pytest.MonkeyPatch) -> list[Writer]:
    """TensorBoard's writer and messages; returns the writers that will be made."""
    Writer.made = []
    messages = {"event": ("Event", "SessionLog"), "summary": ("Summary", "SummaryMetadata")}
    messages |= {"tensor": ("TensorProto",), "tensor_shape": ("TensorShapeProto",)}
    proto: dict[str, dict[str, Any]] = {
        f"tensorboard.compat.proto.{name}_pb2": dict.fromkeys(classes, _Message)
        for name, classes in messages.items()
    }
    install(
        patch,
        proto
        | {
            "tensorboard": {},
            "tensorboard.compat.proto.types_pb2": {"DT_STRING": 7},
            "tensorboard.summary.writer.event_file_writer": {"EventFileWriter": Writer},
        },
    )
    return Writer.made


def install_mlflow(patch: pytest.MonkeyPatch) -> type[Client]:
    """MLflow's client and entities; returns the class that keeps all that it is told."""
    Client.made, Client.experiments, Client.runs = [], {}, {}
    entities = {
        "Param": lambda key, value: (key, value),
        "Metric": lambda key, value, timestamp, step: namespace(key=key, value=value, step=step),
    }
    install(
        patch,
        {
            "mlflow": {},
            "mlflow.entities": entities,
            "mlflow.tracking": {"MlflowClient": Client},
        },
    )
    return Client
