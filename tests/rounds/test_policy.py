"""A policy that no round could follow is refused, with what would do."""

from __future__ import annotations

from typing import Any

import pytest

from fedcore.errors import ArgumentError
from fedcore.rounds import CLIENT_PHASES, Phase
from tests.rounds.driving import DURATIONS, plain, secure


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"minimum": 0}, "minimum 0, goal 3 and select 4"),
        ({"minimum": 4}, "minimum 4, goal 3 and select 4"),
        ({"goal": 5}, "minimum 2, goal 5 and select 4"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"confirming": True}, "confirming is set"),
        ({"durations": {}}, "the duration of SELECTING is None"),
        ({"durations": {**DURATIONS, Phase.COLLECTING: 0}}, "the duration of COLLECTING is 0"),
        (
            {"durations": {**DURATIONS, Phase.UNMASKING: -1}, "secure": True},
            "the duration of UNMASKING is -1",
        ),
    ],
    ids=str,
)
def test_an_impossible_policy_is_refused_with_what_is_impossible(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ArgumentError, match=said):
        plain(**options)


def test_a_phase_that_is_not_used_needs_no_duration() -> None:
    plain(durations={Phase.SELECTING: 1, Phase.COLLECTING: 1})
    used = {phase: 1 for phase in DURATIONS if phase is not Phase.CONFIRMING}
    secure(durations=used, confirming=False)
    with pytest.raises(ArgumentError, match="CONFIRMING"):
        secure(durations=used)


def test_a_policy_keeps_what_it_was_given() -> None:
    durations = dict(DURATIONS)
    policy = plain(durations=durations)
    durations.clear()
    assert policy.durations == DURATIONS


def test_the_phases_follow_each_other_as_the_profile_says() -> None:
    for policy, phases in [
        (plain(), (Phase.COLLECTING,)),
        (secure(), CLIENT_PHASES),
        (secure(confirming=False), tuple(p for p in CLIENT_PHASES if p is not Phase.CONFIRMING)),
    ]:
        assert policy.phases == phases
        walked = [Phase.SELECTING]
        while walked[-1] is not Phase.AGGREGATING:
            walked.append(policy.following(walked[-1]))
        assert tuple(walked[1:-1]) == phases
