"""Virtual time: who reports when, from what devices can do and a task asks, without any training.

A clock never waits and reads no clock of the machine. What it says follows from the seed.
"""

from fedsim.clock.buffered import BufferedClock
from fedsim.clock.buffered_schedule import BufferedSchedule, ServerStep, Start, Update
from fedsim.clock.feasibility import require_reports
from fedsim.clock.forecast import Forecast, forecast
from fedsim.clock.sessions import CountedSession, OpenSession, Session
from fedsim.clock.spec import ClockSpec
from fedsim.clock.staleness import StalenessSpec
from fedsim.clock.synchronous import SynchronousClock
from fedsim.clock.terms import Terms
from fedsim.clock.timeline import Attempt, Cause, ClockState, Loss, RoundTimeline, Span
from fedsim.clock.work import Traffic, Work

__all__ = [
    "Attempt",
    "BufferedClock",
    "BufferedSchedule",
    "Cause",
    "ClockSpec",
    "ClockState",
    "CountedSession",
    "Forecast",
    "Loss",
    "OpenSession",
    "RoundTimeline",
    "ServerStep",
    "Session",
    "Span",
    "StalenessSpec",
    "Start",
    "SynchronousClock",
    "Terms",
    "Traffic",
    "Update",
    "Work",
    "forecast",
    "require_reports",
]
