"""Errors of differential privacy: a guarantee that would not hold."""

from __future__ import annotations

from fedcore.errors.base import FedcoreError

__all__ = [
    "AccountantError",
    "BudgetError",
    "LedgerBusyError",
    "LedgerError",
    "NoiseRoomError",
    "NormError",
    "ParticipationError",
    "PlanError",
    "PrivacyError",
    "ReservationError",
    "RollbackError",
    "SurvivorsError",
]


class PrivacyError(FedcoreError, RuntimeError):
    """A guarantee of differential privacy would not hold."""

    code = "FED-1500"


class PlanError(PrivacyError, ValueError):
    """A privacy plan, or a step that is to follow it, would void its own guarantee."""

    code = "FED-1501"


class NoiseRoomError(PlanError):
    """The noise of a plan is too fine or too coarse to be drawn, or does not fit its integers."""

    code = "FED-1511"


class BudgetError(PrivacyError):
    """The privacy budget does not pay for another release."""

    code = "FED-1502"


class AccountantError(PrivacyError, ArithmeticError):
    """No accountant can state what was spent, or two of them contradict each other."""

    code = "FED-1503"


class NormError(PrivacyError, ValueError):
    """An update lies outside the ball that its noise was made for."""

    code = "FED-1504"


class SurvivorsError(PrivacyError):
    """Fewer shares of noise arrived than the guarantee needs."""

    code = "FED-1505"


class ParticipationError(PrivacyError):
    """A person would take part sooner again, or more often, than the plan allows."""

    code = "FED-1506"


class ReservationError(PrivacyError):
    """A release was not reserved in the ledger, was spent already, or is another round's."""

    code = "FED-1507"


class LedgerError(PrivacyError, ValueError):
    """A privacy ledger is not one, or its chain of records is broken."""

    code = "FED-1508"


class RollbackError(LedgerError):
    """A privacy ledger is older than what was released from it."""

    code = "FED-1509"


class LedgerBusyError(LedgerError):
    """Another process, or another object of this one, holds the privacy ledger."""

    code = "FED-1510"
