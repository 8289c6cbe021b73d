"""The round, sans-IO: a pure function from a state and an event to a state and effects.

`step` decides; whoever drives it owns clock, network and disk, and obeys one contract: an effect
starts only when every `Persist` before it is durable. `docs/rounds.md` draws the table.
"""

from fedcore.rounds.dropout import DropoutEstimate, Seen, overselection, seen_in
from fedcore.rounds.effects import (
    Aggregate,
    Arm,
    Begin,
    Close,
    Effect,
    Invite,
    Persist,
    Publish,
    Release,
    Scrub,
)
from fedcore.rounds.events import (
    Aggregated,
    Arrived,
    Cancel,
    CannotClose,
    CheckedIn,
    Closed,
    DeadlinePassed,
    Event,
    Lost,
    Published,
    Recovered,
    Released,
    Scrubbed,
    Started,
)
from fedcore.rounds.machine import step
from fedcore.rounds.pacing import retry_window
from fedcore.rounds.phases import CLIENT_PHASES, ENDS, Phase
from fedcore.rounds.policy import RoundPolicy
from fedcore.rounds.records import from_record, to_record
from fedcore.rounds.state import Loss, RoundState, Transition, replay
from fedcore.rounds.table import EDGES, TABLE
from fedcore.rounds.waiting import waiting_for

__all__ = [
    "CLIENT_PHASES",
    "EDGES",
    "ENDS",
    "TABLE",
    "Aggregate",
    "Aggregated",
    "Arm",
    "Arrived",
    "Begin",
    "Cancel",
    "CannotClose",
    "CheckedIn",
    "Close",
    "Closed",
    "DeadlinePassed",
    "DropoutEstimate",
    "Effect",
    "Event",
    "Invite",
    "Loss",
    "Lost",
    "Persist",
    "Phase",
    "Publish",
    "Published",
    "Recovered",
    "Release",
    "Released",
    "RoundPolicy",
    "RoundState",
    "Scrub",
    "Scrubbed",
    "Seen",
    "Started",
    "Transition",
    "from_record",
    "overselection",
    "replay",
    "retry_window",
    "seen_in",
    "step",
    "to_record",
    "waiting_for",
]
