"""What a round asks of a device, in bytes and examples: all that a clock has to know of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedcore.federated.task import Task
from fedcore.rounds import Phase

__all__ = ["Traffic", "Work"]

_FLOAT32_BYTES = 4


class Traffic(NamedTuple):
    """Bytes from the server to a client, and back."""

    down: int = 0
    up: int = 0

    def plus(self, other: Traffic) -> Traffic:
        """The bytes of both."""
        return Traffic(self.down + other.down, self.up + other.up)

    def times(self, received: int, sent: int) -> Traffic:
        """The bytes of so many clients."""
        return Traffic(self.down * received, self.up * sent)


def _nothing() -> Mapping[Phase, Traffic]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Sizes of a model and an update in bytes, and how many examples each client trains on.

    Shapes: examples (P,), counted as often as they pass through the model. `exchanged`: what one
    client receives and sends in the other phases, of secure aggregation.
    """

    model_bytes: int
    update_bytes: int
    examples: NDArray[np.int64]
    exchanged: Mapping[Phase, Traffic] = field(default_factory=_nothing)

    @classmethod
    def of(
        cls,
        task: Task,
        sizes: NDArray[np.int64],
        *,
        exchanged: Mapping[Phase, Traffic] | None = None,
    ) -> Work:
        """The work of a resolved task for clients with so many rows each, (P,)."""
        return cls(
            model_bytes=_FLOAT32_BYTES * task.dimension,
            update_bytes=task.layout.upload_bytes,
            examples=_examples(task, sizes),
            exchanged=exchanged or {},
        )

    def traffic(self, phase: Phase) -> Traffic:
        """What one client receives and sends in a phase."""
        if phase is Phase.COLLECTING:
            return Traffic(self.model_bytes, self.update_bytes)
        return self.exchanged.get(phase, Traffic())


def _examples(task: Task, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """By epochs all rows each time; by steps whole passes, and batches of one more."""
    terms = task.training
    if terms.steps is None or terms.batch_size is None:
        return sizes * (terms.epochs or 1)
    a_pass = -(-sizes // terms.batch_size)
    passes, rest = np.divmod(terms.steps, a_pass)
    found: NDArray[np.int64] = passes * sizes + rest * terms.batch_size
    return found
