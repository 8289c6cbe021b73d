"""Records for tests of what a run leaves behind."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.records import (
    Evaluation,
    Mode,
    OwnRows,
    Privacy,
    RoundRecord,
    RunRecord,
    Speed,
    Spread,
    Versions,
    digest_of,
)

VERSIONS = Versions(fedcore="0.1", numpy="2.3", python="3.11", blas="openblas 0.3")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def theta_after(round: int) -> NDArray[np.float32]:
    return np.arange(6, dtype=np.float32) * (round + 1)


def record(round: int = 0, **changes: Any) -> RoundRecord:
    """A round of a task without privacy."""
    given: dict[str, Any] = {
        "round": round,
        "mode": Mode.FAST,
        "model": digest_of(theta_after(round)),
        "start_s": 10.0 * round,
        "end_s": 10.0 * (round + 1),
        "speed": Speed(wall_s=12.4, trainings_per_s=9.5),
        "selected": 130,
        "reported": 118,
        "funnel": {"selected": 130, "trained": 123, "uploaded": 119, "unmasked": 118},
        "lost": {
            "train": {"battery": 5, "failed": 2},
            "upload": {"late": 4},
            "unmask": {"gone": 1},
        },
        "train_loss": 0.412,
        "test": Evaluation(loss=0.5, accuracy=0.879, metrics={"f1": 0.8}),
        "clients": Spread(clients=4, mean=0.8, deviation=0.1, p10=0.6, p50=0.8, p90=0.9),
        "personal": {"accuracy": 0.91},
        "own_rows": OwnRows.HELD_OUT,
        "bytes_down": 80_000_000,
        "bytes_up": 61_200_000,
    }
    return RoundRecord(**given | changes)


def private_record(round: int = 0, **changes: Any) -> RoundRecord:
    """A round of a task with privacy."""
    spent = Privacy(epsilon=0.4 * (round + 1), budget=4.0, delta=1e-5)
    unreleased = {"train_loss": None, "clients": None, "personal": {}, "own_rows": None}
    return record(round, **{"privacy": spent} | unreleased | changes)


def run_record(**changes: Any) -> RunRecord:
    given: dict[str, Any] = {
        "id": "digits-1",
        "name": "digits",
        "scenario_digest": digest("digits"),
        "task_digest": digest("task"),
        "seeds": {"task": 0},
        "mode": Mode.FAST,
        "private": False,
        "versions": VERSIONS,
    }
    return RunRecord(**given | changes)
