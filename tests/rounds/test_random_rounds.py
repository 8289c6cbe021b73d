"""Whatever happens to a round, in whatever order and with crashes, these things stay true."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedcore.errors import TransitionError
from fedcore.rounds import (
    CLIENT_PHASES,
    EDGES,
    Aggregated,
    Arrived,
    Begin,
    Cancel,
    CannotClose,
    CheckedIn,
    Close,
    Closed,
    DeadlinePassed,
    Event,
    Lost,
    Persist,
    Phase,
    Published,
    Recovered,
    Released,
    RoundPolicy,
    RoundState,
    Scrubbed,
    Started,
    Transition,
    from_record,
    replay,
    step,
    to_record,
)
from tests.random_examples import thorough
from tests.rounds.driving import DIGEST, clients, plain

PEOPLE = clients(6)
someone = st.sampled_from(PEOPLE)


@st.composite
def policies(draw: st.DrawFn) -> RoundPolicy:
    select = draw(st.integers(1, 5))
    goal = draw(st.integers(1, select))
    secure = draw(st.booleans())
    terms: dict[str, Any] = {"secure": secure, "confirming": secure and draw(st.booleans())}
    minimum = draw(st.integers(1, goal))
    return plain(select=select, goal=goal, minimum=minimum, max_attempts=2, **terms)


class RandomRound(RuleBasedStateMachine):
    """A driver that tells a round anything at all; what it persists is all it remembers."""

    @initialize(policy=policies())
    def begin(self, policy: RoundPolicy) -> None:
        self.policy, self.now, self.begun, self.released = policy, 0, [1], False
        self.open(1)

    def open(self, attempt: int) -> None:
        self.state = self.opened = RoundState.opened("t", round=0, attempt=attempt, at=self.now)
        self.record = json.dumps(to_record(self.opened))
        self.transitions: list[Transition] = []
        self.arrived: dict[Phase, list[bytes]] = {}
        self.frozen: dict[Phase, frozenset[bytes]] = {}

    def tell(self, event: Event) -> bool:
        before = self.state
        try:
            self.state, effects = step(before, event, self.policy)
        except TransitionError:
            return False
        for effect in effects:
            match effect:
                case Persist(transition):
                    assert (transition.from_phase, transition.to_phase) in EDGES
                    self.transitions.append(transition)
                    self.record = json.dumps(to_record(self.state))
                case Close(phase):
                    assert self.state.closing and (not before.closing or type(event) is Recovered)
                    self.frozen.setdefault(phase, self.state.arrived)
                case Begin(attempt) if not isinstance(event, Recovered):
                    assert attempt not in self.begun
                    self.begun.append(attempt)
        return True

    @rule(client=someone)
    def check_in(self, client: bytes) -> None:
        if self.tell(CheckedIn(self.now, client)):
            self.arrived.setdefault(Phase.SELECTING, []).append(client)

    @rule(client=someone)
    def arrive(self, client: bytes) -> None:
        phase = self.state.phase
        taken = self.state.takes(phase, client)
        assert self.tell(Arrived(self.now, phase, client)) == taken
        if taken:
            self.arrived.setdefault(phase, []).append(client)

    @precondition(lambda self: self.state.pending)
    @rule(pick=st.integers(0, 5))
    def an_awaited_client_arrives(self, pick: int) -> None:
        awaited = sorted(self.state.pending)
        self.arrive(awaited[pick % len(awaited)])

    @rule(client=someone)
    def lose(self, client: bytes) -> None:
        self.tell(Lost(self.now, client, "silent"))

    @rule(passed=st.integers(0, 600))
    def time_passes(self, passed: int) -> None:
        self.now += passed
        with suppress(TransitionError):
            self.tell(DeadlinePassed(self.now, self.state.phase))

    @precondition(lambda self: self.state.closing)
    @rule(members=st.sets(someone))
    def close(self, members: set[bytes]) -> None:
        phase = self.state.phase
        remaining = self.frozen.get(phase, frozenset()) - members
        self.tell(Closed(self.now, phase, remaining))

    @precondition(lambda self: self.state.closing)
    @rule()
    def close_with_all(self) -> None:
        self.close(set())

    @rule(event=st.sampled_from([Started, Aggregated, Published, Scrubbed]))
    def the_server_works(self, event: type[Started | Aggregated | Published | Scrubbed]) -> None:
        self.tell(event(self.now))

    @rule()
    def release(self) -> None:
        self.released |= self.tell(Released(self.now, DIGEST))

    @rule(rarely=st.integers(0, 9), cancel=st.booleans())
    def somebody_ends_it(self, rarely: int, cancel: bool) -> None:
        if rarely == 0:
            phase, now = self.state.phase, self.now
            self.tell(Cancel(now, "enough") if cancel else CannotClose(now, phase, "no"))

    @rule()
    def crash(self) -> None:
        self.state = from_record(json.loads(self.record))
        arrived = tuple(self.arrived.get(self.state.phase, ()))
        assert self.tell(Recovered(self.now, arrived))
        again = step(self.state, Recovered(self.now, arrived), self.policy)
        assert again[0] == self.state

    @precondition(lambda self: self.state.phase is Phase.ABANDONED)
    @rule()
    def next_attempt(self) -> None:
        self.released = False
        self.open(self.begun[-1])

    @invariant()
    def what_was_persisted_is_the_state(self) -> None:
        replayed = replay(self.opened, self.transitions)
        assert replayed == from_record(json.loads(self.record))
        assert (replayed.phase, replayed.sequence) == (self.state.phase, self.state.sequence)
        assert [t.sequence for t in self.transitions] == list(range(1, len(self.transitions) + 1))

    @invariant()
    def an_attempt_ends_once(self) -> None:
        ended = [t.to_phase for t in self.transitions]
        assert sum(p in (Phase.SCRUBBED, Phase.ABANDONED, Phase.FAILED) for p in ended) <= 1
        if Phase.COMPLETED in ended:
            assert self.released
            assert len(self.state.survivors) >= self.policy.minimum

    @invariant()
    def every_client_is_somewhere(self) -> None:
        state = self.state
        assert not state.arrived & state.lost.keys() and not state.pending & state.arrived
        assert not state.pending & state.lost.keys()
        if state.phase in CLIENT_PHASES:
            assert state.members <= state.arrived | state.pending | state.lost.keys()

    @invariant()
    def sets_stay_as_they_were_frozen(self) -> None:
        for transition in self.transitions:
            frozen = self.frozen.get(transition.from_phase)
            if frozen is not None and transition.to_phase in CLIENT_PHASES:
                assert transition.cohort <= frozen


TestRandomRound = RandomRound.TestCase
TestRandomRound.settings = settings(max_examples=thorough(100), stateful_step_count=60)
