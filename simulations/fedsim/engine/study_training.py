"""Clients of a study at work: their algorithm decides what is trained, and lanes train it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeAlias

import numpy as np

from fedcore.federated.training import stream_of
from fedcore.tensor.tensor import tensor
from fedsim.algorithms import Sent, State, Steered, Trained, Vector
from fedsim.compression import Code
from fedsim.engine.client_states import States
from fedsim.engine.jobs import Round
from fedsim.engine.lanes import Lanes, Pupil, Trained as Ended
from fedsim.engine.local import StudyLocal, Wish
from fedsim.engine.measuring import Measuring
from fedsim.engine.study import Study
from fedsim.engine.training import Outcome, diverged, peak_of
from fedsim.population import Population

__all__ = ["StudyTraining"]

_Waiting: TypeAlias = "tuple[_Client, Wish]"
_ALGORITHM, _COMPRESSION = "algorithm/", "compression/"


class StudyTraining:
    """The clients of a study. `states`: where they keep what they keep, None if that is nothing."""

    def __init__(
        self,
        study: Study,
        population: Population,
        *,
        lanes: int | None,
        states: States | None,
    ) -> None:
        self._study, self._population, self._states = study, population, states
        task, flat, data = study.task, study.flat, population.data
        assert task.training.optimizer is not None
        optimizer = task.training.optimizer.make()
        self._steering = Steered(optimizer)
        # Steps that nobody steers have the bits of steered ones, and move fewer numbers.
        self._plain = Lanes(task, flat, optimizer, data, lanes=lanes)
        self._steered = Lanes(task, flat, self._steering, data, lanes=lanes)
        self._measuring = Measuring(task, flat, data)

    def train(self, members: Sequence[int], round: Round) -> Iterator[Outcome]:
        code = self._study.code(round.facts.round)
        width = self._plain.width(round.theta)
        for begin in range(0, len(members), width):
            clients = [self._client(member, round) for member in members[begin : begin + width]]
            self._work(clients, round)
            for client in clients:
                yield self._outcome(client, code, round)

    def personal(self, theta: Vector, place: int) -> Vector:
        """The model (D,) that a client uses itself, given the one that all train."""
        cut = self._study.trained
        own = self._study.algorithm.personal(theta[:cut], _part(self._kept(place), _ALGORITHM))
        return np.concatenate([own, theta[cut:]])

    def _kept(self, member: int) -> State:
        return {} if self._states is None else self._states.get(member)

    def _client(self, member: int, round: Round) -> _Client:
        rows, remembered = self._population.partition[member], round.theta[self._study.trained :]
        stream, kept = stream_of(self._population.names[member]), self._kept(member)

        def loss(theta: Vector) -> float:
            model = np.concatenate([theta, remembered])
            return self._measuring.client(model, rows)["evaluation_loss"] / len(rows)

        local = StudyLocal(
            round.theta[: self._study.trained],
            sent=round.sent,
            state=_part(kept, _ALGORITHM),
            examples=len(rows),
            lr=self._study.task.rate(round.facts.round),
            measure=loss,
        )
        return _Client(Pupil(member, rows, stream), local, kept)

    def _work(self, clients: Sequence[_Client], round: Round) -> None:
        """Has every client say what it gives, which may take several trainings of each."""
        while clients:
            waiting: list[_Waiting] = []
            for client in clients:
                client.found = client.local.advance(self._study.algorithm)
                if isinstance(client.found, Wish):
                    waiting.append((client, client.found))
            self._train(waiting, round)
            clients = [client for client, _ in waiting]

    def _train(self, waiting: Sequence[_Waiting], round: Round) -> None:
        """Trains what clients wait for, side by side where it is of one kind."""
        number = round.facts.round
        for (steered, purpose), group in groupby(waiting, _kind):
            pairs = list(group)
            pupils = [self._pupil(client, wish) for client, wish in pairs]
            lanes = self._steered if steered else self._plain
            ends = lanes.attempt(pupils, round.theta, round=number, purpose=purpose)
            for (client, _), end in zip(pairs, ends, strict=True):
                client.local.answer(self._answer(client, end, round, purpose))

    def _pupil(self, client: _Client, wish: Wish) -> Pupil:
        start = None if wish.start is client.local.theta else wish.start
        if not wish.is_steered:
            return replace(client.pupil, start=start)
        *_, correction, anchor, pull, frozen = self._steering.init(
            tensor(wish.start),
            correction=wish.correction,
            anchor=wish.anchor,
            pull=0.0 if wish.anchor is None else wish.pull,
            frozen=wish.frozen,
        )
        extras = tuple(part.numpy() for part in (correction, anchor, pull, frozen))
        return replace(client.pupil, start=start, extras=extras)

    def _answer(
        self, client: _Client, end: Ended | Exception, round: Round, purpose: str
    ) -> Trained | Exception:
        if isinstance(end, Exception):
            return end
        cut = self._study.trained
        if not end.finite:
            return diverged(round.facts.round)
        if not purpose:
            client.changed = end.vector[cut:] - round.theta[cut:]
        return Trained(end.vector[:cut].copy(), end.steps, end.loss)

    def _outcome(self, client: _Client, code: Code | None, round: Round) -> Outcome:
        index, local, found = client.pupil.index, client.local, client.found
        if isinstance(found, Exception):
            return Outcome(index, None, error=found)
        assert isinstance(found, Sent)
        statistics = {"loss": found.loss}
        try:
            if round.facts.evaluate:
                statistics |= self._measuring.client(round.theta, client.pupil.rows)
            vector, kept = self._encoded(found, client, code)
        except Exception as error:
            return Outcome(index, None, error=error)
        peak = peak_of(vector)
        if not math.isfinite(peak):
            return Outcome(index, None, error=diverged(round.facts.round))
        if self._states is not None:
            self._states.put(index, round.facts.round, kept)
        return Outcome(index, vector, peak, local.examples, local.steps, statistics)

    def _encoded(self, found: Sent, client: _Client, code: Code | None) -> tuple[Vector, State]:
        """The vector that is sent, and what the client keeps of it and of its algorithm."""
        vector = np.asarray(found.vector, np.float32)
        kept = {f"{_ALGORITHM}{name}": value for name, value in found.state.items()}
        if code is not None:
            vector, left = code.encode(vector, _part(client.kept, _COMPRESSION))
            kept |= {f"{_COMPRESSION}{name}": value for name, value in left.items()}
        return np.concatenate([vector, client.changed]), kept


class _Client:
    """One client in a round. `changed`: how what the model remembers did, (D - T,)."""

    def __init__(self, pupil: Pupil, local: StudyLocal, kept: State) -> None:
        self.pupil, self.local, self.kept = pupil, local, kept
        self.found: Sent | Wish | Exception | None = None
        self.changed: Vector = np.empty(0, np.float32)


def _kind(waiting: _Waiting) -> tuple[bool, str]:
    _, wish = waiting
    return wish.is_steered, wish.purpose


def _part(state: State, prefix: str) -> State:
    """The vectors whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
