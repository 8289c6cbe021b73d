"""Errors of simulations."""

from __future__ import annotations

from fedcore.errors.base import FedcoreError

__all__ = ["SimulationError"]


class SimulationError(FedcoreError, RuntimeError):
    """A simulation cannot go on."""

    code = "FED-2400"
