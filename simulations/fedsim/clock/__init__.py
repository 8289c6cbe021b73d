"""Virtual time: who reports when, from what devices can do and a task asks, without any training.

A clock never waits and reads no clock of the machine. What it says follows from the seed.
"""

from fedsim.clock.sessions import CountedSession, OpenSession, Session
from fedsim.clock.synchronous import SynchronousClock
from fedsim.clock.terms import Terms
from fedsim.clock.timeline import Attempt, Cause, ClockState, Loss, RoundTimeline, Span
from fedsim.clock.work import Traffic, Work

__all__ = [
    "Attempt",
    "Cause",
    "ClockState",
    "CountedSession",
    "Loss",
    "OpenSession",
    "RoundTimeline",
    "Session",
    "Span",
    "SynchronousClock",
    "Terms",
    "Traffic",
    "Work",
]
