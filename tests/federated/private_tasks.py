"""Tasks under differential privacy from a few words, and requests to train for them."""

from __future__ import annotations

from typing import Any

from fedcore.data import Dataset
from fedcore.federated.models import initial_theta
from fedcore.federated.programs import TrainingRequest
from fedcore.federated.task import Task

__all__ = ["client_privacy", "record_privacy", "request_of"]


def client_privacy(**changed: Any) -> dict[str, Any]:
    """Terms that protect clients."""
    terms = {
        "unit": "client",
        "epsilon": 8.0,
        "delta": 1e-3,
        "population": 40,
        "clipping_norm": 0.5,
        "noise": "central",
        "maximum_participations": 3,
    }
    return terms | changed


def record_privacy(**changed: Any) -> dict[str, Any]:
    """Terms that protect records."""
    terms = {
        "unit": "record",
        "epsilon": 8.0,
        "delta": 1e-3,
        "population": 100,
        "clipping_norm": 1.0,
        "noise": "central",
        "sampling_rate": 1.0,
    }
    return terms | changed


def request_of(task: Task, data: Dataset | None, **options: Any) -> TrainingRequest:
    """What round 1 asks of a client with these data."""
    if "theta" not in options:
        options["theta"] = initial_theta(task)
    return TrainingRequest(task=task, dataset=data, **({"round": 1, "stream": 5} | options))  # type: ignore[arg-type]
