"""What a client is told next: one numbered instruction at a time, the same after every restart.

The number of an instruction is its place on the one way through an attempt, so that a server that
was restarted, and a client that was, agree on what has been obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from fedcore.rounds import Phase, RoundState
from fedcore.secagg import Message, encode
from fedcore.secagg.messages import MaskRequest, Roster, Survivors, UnmaskRequest
from fedserver.federation.interface import (
    Advertise,
    Finished,
    Instruction,
    Order,
    Outcome,
    SecureAggregation,
    Train,
    Wait,
)

__all__ = ["FINISHED", "finished", "instruction", "wait"]

FINISHED: Final = 100
_ADVERTISE, _TRAIN = 1, 2
_MESSAGES: Final = {
    Phase.SHARES: (3, Roster),
    Phase.COLLECTING: (4, MaskRequest),
    Phase.CONFIRMING: (5, Survivors),
    Phase.UNMASKING: (6, UnmaskRequest),
}
_TRAINING: Final = (Phase.KEYS, Phase.SHARES, Phase.COLLECTING)
_OUTCOMES: Final = {
    Phase.COMPLETED: Outcome.COMPLETED,
    Phase.SCRUBBED: Outcome.COMPLETED,
    Phase.ABANDONED: Outcome.ABANDONED,
    Phase.FAILED: Outcome.ABANDONED,
    Phase.CANCELLED: Outcome.CANCELLED,
}


def instruction(
    state: RoundState,
    client: bytes,
    *,
    seen: int,
    train: Train,
    due: Callable[[bytes], Message | None],
) -> Instruction | None:
    """The instruction after number `seen`, or None while there is none.

    `train`: what everybody is told to train; `due`: the session's last message to a client.
    """
    deadline = state.deadline or 0
    if (end := finished(state, client)) is not None:
        return Instruction(FINISHED, deadline, end) if seen < FINISHED else None
    for number, order in _orders(state, client, train, due):
        if number > seen:
            return Instruction(number, deadline, order)
    return None


def wait(state: RoundState, *, seen: int) -> Instruction:
    """That there is nothing new."""
    return Instruction(seen, state.deadline or 0, Wait())


def finished(state: RoundState, client: bytes) -> Finished | None:
    """How the client's part has ended, or None while it goes on."""
    loss = state.lost.get(client)
    outcome = _OUTCOMES.get(state.phase)
    if outcome is Outcome.COMPLETED and client in state.survivors:
        return Finished(outcome, state.reason, state.digest)
    if outcome is not None and outcome is not Outcome.COMPLETED:
        return Finished(outcome, state.reason)
    left = state.members or state.survivors
    if client in left and (outcome is None):
        return None
    why = f"{loss.phase.name}: {loss.why}" if loss else "the round goes on without this client"
    return Finished(Outcome.DROPPED, why)


def _orders(
    state: RoundState,
    client: bytes,
    train: Train,
    due: Callable[[bytes], Message | None],
) -> Iterator[tuple[int, Order]]:
    if state.phase is Phase.KEYS:
        yield _ADVERTISE, Advertise()
    if state.phase in _TRAINING:
        yield _TRAIN, train
    if (found := _MESSAGES.get(state.phase)) is not None:
        number, kind = found
        message = due(client)
        if message is not None and isinstance(message, kind):
            yield number, SecureAggregation(encode(message))
