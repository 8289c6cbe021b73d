"""The algorithms of a study by the names that a scenario gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from fedcore.autograd.ravel import Spec
from fedcore.federated.choices import Choice
from fedsim.algorithms.algorithm import Algorithm
from fedsim.algorithms.ditto import Ditto
from fedsim.algorithms.fedavg import FedAvg
from fedsim.algorithms.fedbuff import FedBuff
from fedsim.algorithms.feddyn import FedDyn
from fedsim.algorithms.fednova import FedNova
from fedsim.algorithms.fedper import FedPerOptions
from fedsim.algorithms.fedprox import FedProx
from fedsim.algorithms.qfedavg import QFedAvg
from fedsim.algorithms.scaffold import Scaffold

__all__ = ["ALGORITHMS", "AlgorithmChoice"]

ALGORITHMS: Final[Mapping[str, Any]] = {
    "ditto": Ditto,
    "fedavg": FedAvg,
    "fedbuff": FedBuff,
    "feddyn": FedDyn,
    "fednova": FedNova,
    "fedper": FedPerOptions,
    "fedprox": FedProx,
    "qfedavg": QFedAvg,
    "scaffold": Scaffold,
}
"""Algorithms by the name that a scenario gives; each takes its options by keyword."""


@dataclass(frozen=True, kw_only=True)
class AlgorithmChoice(Choice):
    """An algorithm of `ALGORITHMS` with all of its options.

    >>> AlgorithmChoice.read({"name": "fedprox", "mu": 0.1}, "algorithm").write()
    {'name': 'fedprox', 'lr': 1.0, 'mu': 0.1}
    """

    known: ClassVar[Mapping[str, Any]] = ALGORITHMS

    def make(self, layout: Spec) -> Algorithm:
        """The algorithm for a model of this layout. Raises: TaskError for a head that is none."""
        options = self.known[self.name](**dict(self.options))
        found: Algorithm = options.resolve(layout) if self.name == "fedper" else options
        return found
