"""A server may stop between any two acts: whoever takes the round over comes to the same end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fedcore.rounds import CLIENT_PHASES, Phase, RoundPolicy, RoundState, replay, to_record
from tests.random_examples import thorough
from tests.rounds.driving import Driver, Fate, clients, plain, secure
from tests.variants import mostly_slow

FATES = {b"a": Fate(), b"b": Fate(Phase.COLLECTING), b"c": Fate(), b"d": Fate()}
STORIES: dict[str, tuple[RoundPolicy, dict[bytes, dict[int, Fate]], dict[int, Phase]]] = {
    "nobody is lost": (secure(goal=4), {c: {} for c in clients(4)}, {}),
    "without secure aggregation": (plain(goal=4), {c: {1: f} for c, f in FATES.items()}, {}),
    "the goal comes first": (plain(), {c: {} for c in clients(4)}, {}),
    "one is lost in every phase": (
        secure(goal=6, minimum=2, select=7),
        {c: {1: Fate(p)} for c, p in zip(clients(7), [*CLIENT_PHASES, None, None], strict=True)},
        {},
    ),
    "one is silent in every phase": (
        secure(goal=6, minimum=2, select=7),
        {
            c: {1: Fate(p, "deadline")}
            for c, p in zip(clients(7), [*CLIENT_PHASES, None, None], strict=True)
        },
        {},
    ),
    "the second attempt succeeds": (
        secure(max_attempts=2),
        {c: {1: Fate(Phase.SHARES)} for c in clients(4)},
        {},
    ),
    "too few check in": (plain(max_attempts=2), {b"a": {}}, {}),
    "the session does not close": (
        secure(max_attempts=3),
        {c: {} for c in clients(4)},
        {1: Phase.CONFIRMING, 2: Phase.UNMASKING},
    ),
}


@pytest.mark.parametrize("story", mostly_slow(STORIES, quick=3))
def test_one_crash_anywhere_changes_nothing(story: str) -> None:
    policy, fates, cannot = STORIES[story]
    undisturbed = Driver(policy, fates, cannot_close=cannot)
    outcome = undisturbed.run()
    for act in range(undisturbed.acts):
        disturbed = Driver(policy, fates, cannot_close=cannot, crashes=(act,))
        assert disturbed.run() == outcome, act
        assert not disturbed.crashes
        check_history(disturbed)


def check_history(driver: Driver) -> None:
    disk = driver.disk
    assert disk.begun == sorted(set(disk.begun)) == list(range(1, len(disk.begun) + 1))
    for attempt, transitions in disk.transitions.items():
        opened = RoundState.opened("t", round=0, attempt=attempt, at=0)
        state = replay(opened, transitions)
        assert [t.sequence for t in transitions] == list(range(1, len(transitions) + 1))
        assert state.over
        record: dict[str, Any] = to_record(state)
        assert Phase(record["phase"]) is transitions[-1].to_phase


def test_the_stories_end_in_every_way_but_by_an_operator() -> None:
    ends = {
        end[0]
        for policy, fates, cannot in STORIES.values()
        for end in Driver(policy, fates, cannot_close=cannot).run()
        if isinstance(end, tuple)
    }
    assert ends == {Phase.SCRUBBED, Phase.ABANDONED, Phase.FAILED}


@st.composite
def stories(draw: st.DrawFn) -> tuple[RoundPolicy, dict[bytes, dict[int, Fate]], dict[int, Phase]]:
    count = draw(st.integers(1, 5))
    minimum = draw(st.integers(1, count))
    goal = draw(st.integers(minimum, count))
    kind = draw(st.sampled_from([{}, {"secure": True}, {"secure": True, "confirming": True}]))
    attempts = draw(st.integers(1, 2))
    policy = plain(minimum=minimum, goal=goal, select=count, max_attempts=attempts, **kind)
    stops = st.sampled_from([None, None, None, Phase.SELECTING, *policy.phases])
    fate = st.builds(Fate, stops, st.sampled_from(["report", "heartbeat", "deadline"]))
    fates = {c: {n + 1: draw(fate) for n in range(attempts)} for c in clients(count + 1)}
    cannot = draw(st.dictionaries(st.integers(1, 3), st.sampled_from(policy.phases), max_size=1))
    return policy, fates, cannot


@given(stories(), st.lists(st.integers(0, 80), max_size=4))
@settings(max_examples=thorough(200))
def test_several_crashes_in_a_random_story_change_nothing(
    story: tuple[RoundPolicy, dict[bytes, dict[int, Fate]], dict[int, Phase]], crashes: list[int]
) -> None:
    policy, fates, cannot = story
    outcome = Driver(policy, fates, cannot_close=cannot).run()
    disturbed = Driver(policy, fates, cannot_close=cannot, crashes=tuple(sorted(crashes)))
    assert disturbed.run() == outcome
    check_history(disturbed)
