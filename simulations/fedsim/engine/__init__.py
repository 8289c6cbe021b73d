"""Trains the clients of a cohort, many side by side and on many workers, to the same bits."""

from fedsim.engine.engine import Engine, Kind, Summed
from fedsim.engine.jobs import ClientReport, Facts
from fedsim.engine.plan import WAYS, Plan, WayName
from fedsim.engine.study import Study, StudyPlan

__all__ = [
    "WAYS",
    "ClientReport",
    "Engine",
    "Facts",
    "Kind",
    "Plan",
    "Study",
    "StudyPlan",
    "Summed",
    "WayName",
]
