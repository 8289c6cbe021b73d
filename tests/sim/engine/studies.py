"""Whole studies by the engine, and by a plain loop over clients that knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.batching import batch_plan
from fedcore.federated.models import initial_theta
from fedcore.federated.task import Task
from fedcore.federated.training import stream_of
from fedcore.tensor.random import Key
from fedsim.algorithms import AlgorithmChoice, State, Trained, Turnout, Vector
from fedsim.compression import CompressionChoice
from fedsim.engine import ClientReport, Engine, Facts, Plan, Study, StudyPlan
from fedsim.population import Population

ALGORITHMS: dict[str, dict[str, Any]] = {
    "ditto": {"lam": 0.5},
    "fedavg": {},
    "fedbuff": {},
    "feddyn": {"alpha": 0.3},
    "fednova": {},
    "fedper": {},
    "fedprox": {"mu": 0.5},
    "qfedavg": {"q": 0.5},
    "scaffold": {},
}
COHORTS = ([0, 3, 4, 5, 6, 7], [1, 2, 3, 4, 9, 8], [0, 1, 4, 5, 9, 3])


def study_of(
    folder: Path, name: str, *, compressed: bool = False, cache: int = 1 << 20
) -> StudyPlan:
    options = tuple(ALGORITHMS[name].items())
    code = {"fraction": 0.3, "error_feedback": True}
    return StudyPlan(
        algorithm=AlgorithmChoice(name=name, options=options),
        compression=CompressionChoice.read({"name": "random_k", **code}, "")
        if compressed
        else None,
        states=str(folder),
        cache_bytes=cache,
    )


class Server:
    """What a study's server does in a round, by whichever engine."""

    def __init__(self, study: Study, population: int) -> None:
        self.study, self._population = study, population
        self.theta = initial_theta(study.task)
        self.kept: State = study.algorithm.start(study.trained)

    def sent(self) -> State:
        return self.study.algorithm.sent(self.theta[: self.study.trained], self.kept)

    def apply(self, mean: Vector, round: int, reports: int) -> None:
        vector, changed = self.study.decode(mean, round=round)
        cut, turnout = self.study.trained, Turnout(round, reports, self._population)
        theta, self.kept = self.study.algorithm.apply(self.theta[:cut], vector, self.kept, turnout)
        self.theta = np.concatenate([theta, self.theta[cut:] + changed])


def play(
    engine: Engine,
    server: Server,
    rounds: Sequence[int] = range(len(COHORTS)),
    *,
    kept: Callable[[int], None] = lambda round: None,
) -> tuple[ClientReport, ...]:
    """Rounds of a study, of which each is kept once it is over; the last reports."""
    reports: tuple[ClientReport, ...] = ()
    for round in rounds:
        found = engine.sum(COHORTS[round], server.theta, Facts(round), sent=server.sent())
        reports = found.reports
        gave = [report for report in reports if not report.failure]
        assert found.vector is not None
        mean = (found.vector / sum(report.weight for report in gave)).astype(np.float32)
        server.apply(mean, round, len(gave))
        engine.commit(round, [report.index for report in gave])
        kept(round)
    return reports


def played(
    task: Task, people: Population, study: StudyPlan, **options: Any
) -> tuple[Vector, list[ClientReport], tuple[ClientReport, ...]]:
    """The model, the last reports, and how good clients' own models are, at the end."""
    lanes = options.pop("lanes", None)
    plan = Plan(task=task, way="floats", lanes=lanes, study=study)
    with Engine(plan, people, **options) as engine:
        server = Server(Study(study, task), len(people))
        reports = play(engine, server)
        return server.theta, list(reports), engine.measure_clients(range(len(people)), server.theta)


class PlainLocal:
    """One client of the tests' small network, trained by NumPy and by nothing else."""

    def __init__(
        self, task: Task, people: Population, place: int, round: int, server: Server
    ) -> None:
        self.task, self.round, self.client = task, round, people[place]
        self.theta, self.sent, self.state = server.theta, server.sent(), dict[str, Vector]()
        self.examples, self.lr = len(self.client.dataset), task.rate(round)

    def loss(self, theta: Vector) -> float:
        data = self.client.dataset
        found, _ = _loss(theta, data.x, data.y, np.ones(len(data)))
        return found

    def train(
        self,
        start: Vector,
        *,
        correction: Vector | None = None,
        anchor: Vector | None = None,
        pull: float = 0.0,
        frozen: Any = None,
        purpose: str = "",
    ) -> Trained:
        terms, data = self.task.training, self.client.dataset
        stream, theta = stream_of(self.client.name), start.astype(np.float64)
        key = Key(self.task.seed, f"{purpose}shuffle", round=self.round, client=stream)
        steps, total = 0, 0.0
        assert terms.epochs is not None and terms.batch_size is not None
        for epoch in range(terms.epochs):
            total = 0.0
            for rows, weight in zip(
                *batch_plan(len(data), terms.batch_size, key=key, epoch=epoch), strict=True
            ):
                loss, gradient = _loss(theta, data.x[rows], data.y[rows], weight)
                if correction is not None:
                    gradient = gradient + correction
                if anchor is not None:
                    gradient = gradient + pull * (theta - anchor)
                moved = theta - self.lr * gradient
                theta = moved if frozen is None else np.where(frozen, theta, moved)
                steps, total = steps + 1, total + loss * weight.sum()
        return Trained(theta.astype(np.float32), steps, total)


def loop(task: Task, people: Population, plan: StudyPlan) -> tuple[Vector, dict[int, State]]:
    """The same study, one client after another: the model and what clients keep at the end."""
    study = Study(plan, task)
    server, kept, residuals = Server(study, len(people)), dict[int, State](), dict[int, State]()
    for round, cohort in enumerate(COHORTS):
        code, total, weight = study.code(round), np.zeros(study.length), 0.0
        for place in cohort:
            local = PlainLocal(task, people, place, round, server)
            local.state = dict(kept.get(place, {}))
            found = study.algorithm.client(local)
            kept[place], vector = found.state, found.vector
            if code is not None:
                vector, residuals[place] = code.encode(vector, residuals.get(place, {}))
            counted = local.examples if study.algorithm.weighted else 1
            total, weight = total + counted * vector, weight + counted
        server.apply((total / weight).astype(np.float32), round, len(cohort))
    return server.theta, kept


def _loss(theta: Any, x: Any, y: Any, weight: Any) -> tuple[float, Any]:
    """Mean cross entropy of 6-8-3 with a ReLU, and its slope."""
    w, b, v, c = theta[:48].reshape(6, 8), theta[48:56], theta[56:80].reshape(8, 3), theta[80:]
    hidden = np.maximum(x @ w + b, 0)
    scores = hidden @ v + c
    scores = scores - scores.max(axis=1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    count = weight.sum()
    loss = -(logs[np.arange(len(y)), y] * weight).sum() / count
    slope = (np.exp(logs) - np.eye(3)[y]) * (weight / count)[:, None]
    back = (slope @ v.T) * (hidden > 0)
    parts = [x.T @ back, back.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]
    return float(loss), np.concatenate([part.ravel() for part in parts])
