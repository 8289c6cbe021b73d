"""A policy that no round could follow is refused, with what would do."""

from __future__ import annotations

from typing import Any

import pytest

from fedcore.errors import ArgumentError
from fedcore.rounds import CLIENT_PHASES, Phase
from tests.rounds.driving import DURATIONS, plain, secure


@pytest.mark.parametrize(
    "options",
    [
        {"minimum": 0},
        {"minimum": 4},
        {"goal": 5},
        {"max_attempts": 0},
        {"confirming": True},
        {"durations": {}},
        {"durations": {**DURATIONS, Phase.COLLECTING: 0}},
        {"durations": {**DURATIONS, Phase.UNMASKING: -1}, "secure": True},
    ],
    ids=str,
)
def test_an_impossible_policy_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        plain(**options)
    assert caught.value.why and caught.value.fix


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
