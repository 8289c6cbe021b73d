"""One sentence says what a round waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from fedcore.rounds import CLIENT_PHASES, Loss, Phase, RoundState, waiting_for
from tests.rounds.driving import clients, plain, secure

A, B, C, D = clients(4)
STATE = RoundState(
    "t",
    0,
    1,
    Phase.COLLECTING,
    4,
    since=10_000,
    deadline=70_000,
    cohort=frozenset({A, B, C, D}),
    members=frozenset({A, B, C, D}),
    arrived=frozenset({A}),
    pending=frozenset({B, C}),
    lost={D: Loss(Phase.COLLECTING, "silent")},
)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            STATE,
            "waits for 2 of 4 clients to train and report (1 came, 1 lost, at least 2 must):"
            " for 20 s, at most 40 s more",
        ),
        (
            replace(STATE, deadline=25_000),
            "waits for 2 of 4 clients to train and report (1 came, 1 lost, at least 2 must):"
            " for 20 s, its deadline passed 5 s ago",
        ),
        (
            replace(STATE, deadline=30_000),
            "waits for 2 of 4 clients to train and report (1 came, 1 lost, at least 2 must):"
            " for 20 s, its deadline passed 0 s ago",
        ),
        (
            replace(STATE, phase=Phase.SELECTING, arrived=frozenset({A, B, C})),
            "waits for 1 client to check in (3 came, at least 2 must): for 20 s, at most 40 s more",
        ),
        (
            replace(STATE, phase=Phase.UNMASKING),
            "waits for 2 of 4 clients to help to unmask the sum (1 came, 1 lost, at least 1 must):"
            " for 20 s, at most 40 s more",
        ),
        (
            replace(STATE, closing=True),
            "waits for the server to go on with 1 of 4 clients: for 20 s",
        ),
        (
            replace(STATE, phase=Phase.SELECTING),
            "waits for 3 clients to check in (1 came, at least 2 must):"
            " for 20 s, at most 40 s more",
        ),
        (
            replace(STATE, phase=Phase.AGGREGATING, deadline=None, survivors=frozenset({A, B})),
            "waits for the server to sum the reports of 2 clients: for 20 s",
        ),
        (
            replace(STATE, phase=Phase.AGGREGATING, deadline=None, closing=True),
            "waits for the server to release the result: for 20 s",
        ),
        (
            replace(STATE, phase=Phase.FAILED, reason="too few clients: 1 of 2"),
            "waits for nothing, it is failed: too few clients: 1 of 2",
        ),
        (replace(STATE, phase=Phase.SCRUBBED), "waits for nothing, it is scrubbed"),
    ],
)
def test_the_sentence_says_what_for_from_whom_and_how_long(
    state: RoundState, sentence: str
) -> None:
    assert waiting_for(state, secure(), at=30_000) == sentence


@given(st.sampled_from(Phase), st.booleans(), st.integers(0, 10**6))
def test_every_phase_has_a_sentence(phase: Phase, closing: bool, at: int) -> None:
    waits = phase in CLIENT_PHASES or phase is Phase.SELECTING
    state = replace(STATE, phase=phase, closing=closing, deadline=70_000 if waits else None)
    sentence = waiting_for(state, plain(), at)
    assert "waits for" in sentence and "{" not in sentence and "-" not in sentence
