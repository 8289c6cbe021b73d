"""What one client puts on the wire in a round: trained, clipped, on a grid and noised as agreed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.federated.programs import Program, TrainingRequest
from fedcore.federated.task import Task

__all__ = ["Contributor"]


class Contributor:
    """One client's work for one task; keeps compiled programs between rounds.

    `task`: resolved. `programs`: what the device's owner installed, by name. `entropy`: a seam for
    tests; noise comes from the operating system.
    Raises: ProgramError for a program or model that is not installed.
    """

    def __init__(
        self,
        task: Task,
        *,
        programs: Mapping[str, Program] | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        raise NotImplementedError

    def contribute(self, request: TrainingRequest) -> tuple[NDArray[np.int64], ...]:
        """Trains, and gives the blocks of `task.layout`, in their order, ready to pack or mask.

        Under privacy the noise is in them, drawn anew at every call: call it once an attempt, and
        keep what it gave. `request.task` is this contributor's.
        Raises: CancelledError, DivergenceError, ProgramError, UpdateError, PlanError (clipping).
        """
        raise NotImplementedError
