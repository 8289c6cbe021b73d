"""The local work of one assignment: fetch the model, train it, make what goes on the wire.

It runs in a thread of its own, so that under secure aggregation keys and shares are exchanged while
the device trains; a cancellation reaches it before its next step. It is the same thread in every
round, because a compiled step is bound to memory thread by thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from fedclient.connection import Connection
from fedclient.energy import Meter
from fedclient.expenses import Expenses
from fedclient.progress import Stage
from fedclient.stopping import Stop
from fedclient.transfer import download
from fedcore.errors import DataFormatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedcore.data import Dataset
    from fedcore.federated.contribution import Contributor
    from fedcore.federated.programs import Progress as Step
    from fedcore.federated.task import Task
    from fedcore.v1.round_service_pb2 import Train

__all__ = ["Work", "Worker"]

Tell = Callable[[Stage, float | None], None]


class Work:
    """What one instruction to train asks for; `run` does all of it, once.

    `contributor`: of the task. `stream`: of the device's random numbers. `models`: the folder of
    models. `expenses`: to which all that it takes is charged, also if it fails. `tell`: of each
    stage and its share. `measured`: told what the model that was sent comes to on the data, where
    the round asks for it. `failed`: told of an error of training that goes no further.
    """

    def __init__(
        self,
        task: Task,
        train: Train,
        *,
        round: int,
        dataset: Dataset,
        contributor: Contributor,
        stream: int,
        connection: Connection,
        models: Path,
        stop: Stop,
        expenses: Expenses,
        tell: Tell,
        measured: Callable[[Mapping[str, float]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._task, self._train, self._round = task, train, round
        self._dataset, self._contributor, self._stream = dataset, contributor, stream
        self._connection, self._models, self._stop, self._tell = connection, models, stop, tell
        self._measured, self._failed = measured, failed
        self._expenses, self._moved = expenses, 0

    def run(self) -> list[NDArray[np.int64]]:
        """The blocks of the task's layout.

        Raises: CancelledError, ClientStateError, DataFormatError, TransferError; without privacy
        what the program raises.
        """
        meter, begun_s = Meter(), time.monotonic()
        try:
            return self._blocks()
        finally:
            # They belong to who holds the vector: a cycle would outlive the round.
            del self._tell, self._measured, self._failed
            self._expenses.settle(seconds=time.monotonic() - begun_s, energy=meter.read())

    def _blocks(self) -> list[NDArray[np.int64]]:
        from fedcore.federated.parameters import parameters_of
        from fedcore.federated.programs import TrainingRequest
        from fedcore.model_format import read_model

        self._tell(Stage.DOWNLOADING, None)
        path = download(
            self._connection,
            self._train.model_digest,
            size=self._train.model_bytes,
            folder=self._models,
            stop=self._stop,
            moved=self._downloaded,
        )
        with path.open("rb", buffering=0) as file:
            theta = read_model(file, parameters_of(self._task)).vector
        _require_finite(theta)
        self._stop.check()
        self._tell(Stage.TRAINING, 0.0)
        request = TrainingRequest(
            task=self._task,
            theta=theta,
            dataset=self._dataset,
            round=self._round,
            stream=self._stream,
            # The owner agreed to the task: a server may leave a measurement out, and add none.
            evaluate=self._train.evaluate and self._task.evaluation.is_due(self._round),
            clipping=self._train.clipping,
            progress=self._stepped,
            measured=self._measured,
            failed=self._failed,
            cancelled=self._stop.is_set,
        )
        return list(self._contributor.contribute(request))

    def _downloaded(self, moved: int, size: int) -> None:
        self._expenses.moved(down=moved)
        self._moved += moved
        self._tell(Stage.DOWNLOADING, min(1.0, self._moved / size))

    def _stepped(self, step: Step) -> None:
        self._tell(Stage.TRAINING, step.step / max(1, step.steps))


def _require_finite(theta: NDArray[np.float32]) -> None:
    """Nothing may be given for a model of which nothing can come: the owner would pay for it."""
    import numpy as np

    if not np.isfinite(theta).all():
        raise DataFormatError(
            "the server's model has values that are NaN or infinite",
            why="no training leads back from there to finite numbers",
            fix="report it to the operator; nothing was given for it",
        )


class Worker:
    """The thread that does one work after another; it does not keep the program from ending."""

    def __init__(self) -> None:
        self._due: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        Thread(target=_do, args=(self._due,), name="local work", daemon=True).start()

    def begin(self, work: Work) -> Future[list[NDArray[np.int64]]]:
        """Lets the work be done after what was begun before it."""
        future: Future[list[NDArray[np.int64]]] = Future()

        def run() -> None:
            try:
                future.set_result(work.run())
            except BaseException as error:
                future.set_exception(error)

        self._due.put(run)
        return future

    def close(self) -> None:
        """Lets the thread end after what was begun."""
        self._due.put(None)


def _do(due: SimpleQueue[Callable[[], None] | None]) -> None:
    while (run := due.get()) is not None:
        run()
        del run  # a thread that waits holds no vector
