"""Rounds of a few devices, worked out by hand: who reports when, and who is lost where and why."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedcore.errors import TaskError
from fedcore.rounds import Phase
from fedcore.secagg import Block, Layout, Profile, SessionConfig
from fedcore.secagg.loopback import LostAt
from fedsim.clock import Attempt, Cause, ClockState, SynchronousClock, Terms, Traffic, Work
from fedsim.devices import Stage
from tests.sim.clock.hands import Device, Hands, terms, work

SURE = {stage: {stage: 1.0} for stage in Stage}
PLAN = {Phase.SELECTING: 0, Phase.COLLECTING: 0}


def attempt(rules: Terms, devices: list[Device], what: Work, **options: object) -> Attempt:
    """The only attempt at round 0."""
    clock = SynchronousClock(rules, Hands(devices))
    timeline = clock.round(0, ClockState(), what, **options)  # type: ignore[arg-type]
    (found,) = timeline.attempts
    return found


def losses(found: Attempt) -> dict[int, tuple[Phase, Cause, int]]:
    return {client: tuple(loss) for client, loss in found.lost.items()}  # type: ignore[misc]


def spans(found: Attempt) -> list[tuple[str, int, int]]:
    return [(span.phase.name, span.begin, span.end) for span in found.spans]


def test_ideal_devices_take_no_time_and_all_of_them_report() -> None:
    found = attempt(terms(goal=3), [Device()] * 3, work(5, 6, 7))
    assert found.completed and found.survivors == (0, 1, 2)
    assert found.begin == found.end == 0 and found.lost == {}
    assert (found.bytes_down, found.bytes_up) == (3000, 1500)


def test_an_open_round_is_download_training_and_upload_of_the_slowest() -> None:
    devices = [
        Device(compute=10, download=1000, upload=100, latency_s=0.5),  # checks in at 0.5 s
        Device(compute=20, download=500, upload=250, latency_s=1),  # and this one at 1 s
        Device(),
    ]
    found = attempt(terms(goal=3), devices, work(40, 20, 1))
    # From 1 s on. First: 0.5 + 1 + 4 + 5 s. Second: 1 + 2 + 1 + 2 s.
    assert found.reported == {0: 11_500, 1: 7000, 2: 1000}
    assert spans(found) == [
        ("SELECTING", 0, 1000),
        ("COLLECTING", 1000, 11_500),
        ("AGGREGATING", 11_500, 11_500),
        ("RELEASING", 11_500, 11_500),
        ("COMPLETED", 11_500, 11_500),
    ]
    assert found.traffic == {Phase.COLLECTING: Traffic(3000, 1500)}


def test_once_the_goal_is_reached_nobody_else_is_waited_for() -> None:
    devices = [Device(compute=10), Device(compute=1), Device(compute=2), Device(compute=5)]
    found = attempt(terms(goal=2, select=4), devices, work(10, 10, 10, 10))
    assert found.reported == {0: 1000, 3: 2000} and found.end == 2000
    assert losses(found) == dict.fromkeys((1, 2), (Phase.COLLECTING, Cause.SURPLUS, 2000))
    assert found.traffic == {Phase.COLLECTING: Traffic(4000, 1000)}
    assert found.funnel == {(Phase.COLLECTING, Cause.SURPLUS): 2}


def test_a_straggler_is_left_behind_at_the_deadline() -> None:
    devices = [Device(compute=10), Device(compute=1), Device(compute=2)]
    late = {Phase.COLLECTING: 6}
    found = attempt(terms(goal=3, minimum=2, seconds=late), devices, work(10, 10, 10))
    assert found.reported == {0: 1000, 2: 5000} and found.end == 6000
    assert losses(found) == {1: (Phase.COLLECTING, Cause.SLOW, 6000)}


def test_who_is_ready_at_the_very_deadline_is_not_late() -> None:
    found = attempt(
        terms(goal=2, seconds={Phase.COLLECTING: 10}), [Device(compute=1)] * 2, work(10, 9)
    )
    assert found.reported == {0: 10_000, 1: 9000} and found.completed


def test_who_has_begun_no_upload_in_time_is_given_up_before_the_deadline() -> None:
    devices = [Device(compute=10), Device(compute=0.05), Device(upload=5)]
    found = attempt(terms(goal=3, minimum=1, compute_s=5), devices, work(10, 10, 10))
    # The third uploads for 100 s, and the deadline is at 100 s; the second is missed after 5 s.
    assert found.reported == {0: 1000, 2: 100_000}
    assert losses(found) == {1: (Phase.COLLECTING, Cause.SLOW, 100_000)}
    assert found.state.lost[(1).to_bytes(8, "big")].why == "no update begun in time"
    alone = attempt(terms(goal=2, minimum=1, compute_s=5), devices[:2], work(10, 10))
    assert alone.end == 5000


def test_who_was_given_up_may_still_report_while_others_are_waited_for() -> None:
    devices = [Device(compute=1), Device(upload=25)]
    found = attempt(terms(goal=2, minimum=1, compute_s=5), devices, work(10, 10))
    assert found.reported == {0: 10_000, 1: 20_000} and found.lost == {}


def test_a_device_that_is_lost_is_missed_after_a_silence() -> None:
    devices = [Device(compute=1), Device(compute=1, dropout=SURE[Stage.TRAINING])]
    found = attempt(terms(goal=2, minimum=1, silence_s=20), devices, work(10, 10))
    ((client, loss),) = found.lost.items()
    assert client == 1 and loss[:2] == (Phase.COLLECTING, Cause.DROPPED)
    assert 0 <= loss.at < 10_000 and found.end == max(10_000, loss.at + 20_000)


def test_a_program_that_fails_is_reported_at_once() -> None:
    devices = [Device(compute=2), Device(compute=1), Device(compute=4)]
    found = attempt(terms(goal=3, minimum=2), devices, work(10, 10, 10), failing={1})
    assert losses(found) == {1: (Phase.COLLECTING, Cause.FAILED, 10_000)}
    assert found.reported == {0: 5000, 2: 2500} and found.end == 10_000


def test_once_it_is_known_who_fails_the_round_is_held_again_with_another_in_its_place() -> None:
    devices = [Device(compute=speed, dropout={Stage.UPLOAD: 0.2}) for speed in range(1, 21)]
    rules, what = terms(goal=8, minimum=4, select=14), work(*[20] * 20)
    before = attempt(rules, devices, what)
    failed = before.survivors[-1]
    after = attempt(rules, devices, what, failing={failed})
    assert after.cohort == before.cohort and after.lost[failed].cause is Cause.FAILED
    kept = set(before.survivors) - {failed}
    assert kept < set(after.survivors) and len(after.survivors) == len(before.survivors)
    assert all(after.reported[client] == before.reported[client] for client in kept)


def test_too_few_end_an_attempt_as_soon_as_it_is_noticed() -> None:
    devices = [Device(compute=1), Device(compute=1)]
    found = attempt(terms(goal=2), devices, work(50, 10), failing={1})
    assert not found.completed and found.end == 10_000 and found.reported == {}
    assert losses(found) == {
        0: (Phase.COLLECTING, Cause.GIVEN_UP, 10_000),
        1: (Phase.COLLECTING, Cause.FAILED, 10_000),
    }
    assert found.state.phase is Phase.FAILED and "its program failed" in found.state.reason


def test_who_goes_away_in_the_middle_is_lost() -> None:
    devices = [Device(compute=1), Device(compute=1, there=[(0, 4)]), Device(there=[(0, 4)])]
    found = attempt(terms(goal=3, minimum=2, silence_s=3), devices, work(10, 10, 10))
    assert losses(found) == {1: (Phase.COLLECTING, Cause.AWAY, 4000)}
    assert found.reported == {0: 10_000, 2: 0}


def test_who_leaves_while_it_waits_is_replaced() -> None:
    leaving = Device(dropout=SURE[Stage.CHECKED_IN])
    devices = [leaving, leaving, Device(latency_s=1), Device(latency_s=2)]
    for number in range(8):
        clock = SynchronousClock(terms(goal=2), Hands(devices))
        found = clock.round(number, ClockState(), work(1, 1, 1, 1)).last
        assert found.completed and set(found.cohort) == {2, 3}
        assert spans(found)[0] == ("SELECTING", 0, 2000) and found.end == 4000
        assert set(losses(found).values()) <= {(Phase.SELECTING, Cause.DROPPED, 0)}


def test_who_leaves_when_the_selection_is_over_is_missed_afterwards() -> None:
    devices = [Device(), Device(), Device(latency_s=2, dropout=SURE[Stage.CHECKED_IN])]
    found = attempt(terms(goal=3, minimum=2, silence_s=20), devices, work(1, 1, 1))
    assert losses(found) == {2: (Phase.COLLECTING, Cause.DROPPED, 2000)}
    assert found.survivors == (0, 1) and found.end == 22_000


def secure(devices: list[Device], what: Work | None = None, **options: object) -> Attempt:
    rules = terms(
        goal=len(devices),
        minimum=2,
        secure=True,
        confirming=True,
        silence_s=20,
        **options,  # type: ignore[arg-type]
    )
    return attempt(rules, devices, what or work(*[10] * len(devices)))


def test_a_secure_round_trains_while_keys_and_shares_are_exchanged() -> None:
    exchanged = {
        Phase.KEYS: Traffic(0, 100),
        Phase.SHARES: Traffic(200, 300),
        Phase.UNMASKING: Traffic(50, 40),
    }
    devices = [
        Device(compute=1, download=1000, upload=100, latency_s=1),
        Device(compute=100, download=100, upload=500, latency_s=2),
    ]
    found = secure(devices, work(30, 100, exchanged=exchanged))
    # 2 s: both have checked in. KEYS: 1 + 1 s and 2 + 0.2 s; then each begins to train.
    # SHARES from 4.2 s: 1 + 0.2 + 3 s and 2 + 2 + 0.6 s.
    # The first trains from 4 s on: 1 + 1 + 30 s. The second from 4.2 s on: 2 + 10 + 1 s.
    # COLLECTING from 8.8 s: uploads from 36 s to 41 s, and from 17.2 s to 18.2 s.
    # CONFIRMING: 2 s. UNMASKING from 43 s: 1 + 0.05 + 0.4 s and 2 + 0.5 + 0.08 s.
    assert spans(found)[:6] == [
        ("SELECTING", 0, 2000),
        ("KEYS", 2000, 4200),
        ("SHARES", 4200, 8800),
        ("COLLECTING", 8800, 41_000),
        ("CONFIRMING", 41_000, 43_000),
        ("UNMASKING", 43_000, 45_580),
    ]
    assert found.reported == {0: 41_000, 1: 18_200} and found.completed
    assert found.traffic == {
        Phase.KEYS: Traffic(0, 200),
        Phase.SHARES: Traffic(400, 600),
        Phase.COLLECTING: Traffic(2000, 1000),
        Phase.CONFIRMING: Traffic(0, 0),
        Phase.UNMASKING: Traffic(100, 80),
    }


@pytest.mark.parametrize(
    ("stage", "phase", "silent"),
    [
        (Stage.KEYS, Phase.KEYS, None),
        (Stage.SHARES, Phase.SHARES, LostAt.SHARES),
        (Stage.UPLOAD, Phase.COLLECTING, LostAt.UPLOADING),
        (Stage.CONFIRMING, Phase.UNMASKING, LostAt.CONFIRMATION),
        (Stage.UNMASKING, Phase.UNMASKING, LostAt.ANSWER),
    ],
)
def test_at_each_stage_a_device_may_be_lost(
    stage: Stage, phase: Phase, silent: LostAt | None
) -> None:
    config = SessionConfig(
        task=bytes(32),
        layout=Layout((Block(4, 16, 10),)),
        profile=Profile.MALICIOUS,
        gamma=Fraction(0),
        delta=Fraction(1, 4),
        sigma=100,
        eta=30,
    )
    devices = [Device(compute=1)] * 7 + [Device(compute=1, upload=50, dropout=SURE[stage])]
    found = secure(devices, session=config)
    assert found.completed
    reported = tuple(range(8)) if phase is Phase.UNMASKING else tuple(range(7))
    assert found.survivors == reported
    ((client, loss),) = found.lost.items()
    assert client == 7 and loss[:2] == (phase, Cause.DROPPED)
    assert found.silent_from == ({} if silent is None else {7: silent})


def test_a_device_lost_before_it_has_trained_sends_nothing_of_its_vector() -> None:
    lost = Device(compute=1, dropout=SURE[Stage.TRAINING])
    found = secure([Device(compute=1), Device(compute=1), lost], work(10, 10, 10))
    # It dealt its shares at once, so it is in the session and missed in COLLECTING.
    assert found.silent_from == {2: LostAt.UPLOAD}
    assert found.lost[2][:2] == (Phase.COLLECTING, Cause.DROPPED)


def test_an_attempt_in_vain_is_followed_by_another_with_other_fates() -> None:
    half = {Stage.TRAINING: 0.5}
    clock = SynchronousClock(
        terms(goal=4, minimum=4, max_attempts=50), Hands([Device(compute=1, dropout=half)] * 4)
    )
    timeline = clock.round(3, ClockState(at=500), work(*[10] * 4))
    assert timeline.completed and len(timeline.attempts) > 1
    assert [one.state.attempt for one in timeline.attempts] == [
        *range(1, len(timeline.attempts) + 1)
    ]
    assert [one.state.phase for one in timeline.attempts[:-1]] == [Phase.ABANDONED] * (
        len(timeline.attempts) - 1
    )
    assert timeline.begin == timeline.attempts[0].begin == 500
    for one, following in zip(timeline.attempts, timeline.attempts[1:], strict=False):
        assert following.begin == one.end
    assert timeline.after.at == timeline.end and len(timeline.after.seen) <= 20


def test_a_round_waits_until_enough_are_there() -> None:
    devices = [Device(there=[(0, 10)]), Device(there=[(30, 90)]), Device(there=[(40, 90)])]
    clock = SynchronousClock(terms(goal=2), Hands(devices))
    timeline = clock.round(0, ClockState(at=5000), work(1, 1, 1))
    assert timeline.completed and timeline.last.survivors == (1, 2)
    assert timeline.last.begin == 40_000 and timeline.waited_ms == 35_000


def test_a_round_that_may_not_wait_so_long_says_when_enough_are_there() -> None:
    devices = [Device(there=[(30, 90)]), Device(there=[(40, 90)])]
    clock = SynchronousClock(terms(goal=2), Hands(devices), patience_ms=39_999)
    with pytest.raises(TaskError, match="would wait until 40 s for 2 clients") as caught:
        clock.round(0, ClockState(), work(1, 1))
    assert "40 s" in caught.value.fix


def test_too_few_that_are_ever_there_at_once_are_refused_with_how_many_there_are() -> None:
    devices = [Device(there=[(10, 30)]), Device(there=[(20, 40)]), Device(there=[(30, 50)])]
    clock = SynchronousClock(terms(goal=3), Hands(devices))
    with pytest.raises(TaskError, match="at most 2 of 3 are ever there at once") as caught:
        clock.round(0, ClockState(), work(1, 1, 1))
    assert "2 at most" in caught.value.fix
    with pytest.raises(TaskError, match="at most 0 of 3"):
        clock.round(0, ClockState(at=60_000), work(1, 1, 1))


def test_a_selection_waits_for_those_who_come_in_time_and_goes_on_without_the_others() -> None:
    devices = [
        Device(),
        Device(),
        Device(there=[(30, 200)], latency_s=1),
        Device(there=[(120, 200)]),
    ]
    found = attempt(terms(goal=4, minimum=2), devices, work(1, 1, 1, 1))
    assert set(found.cohort) == {0, 1, 2} and found.spans[0].end == 100_000
    full = attempt(terms(goal=3, minimum=2), devices, work(1, 1, 1, 1))
    assert set(full.cohort) == {0, 1, 2} and full.spans[0].end == 31_000


def test_who_goes_away_while_others_are_waited_for_does_not_count() -> None:
    devices = [Device(), Device(there=[(0, 10)]), Device(there=[(30, 200)])]
    found = attempt(terms(goal=3, minimum=2), devices, work(1, 1, 1))
    assert set(found.cohort) == {0, 2}
    assert losses(found) == {1: (Phase.SELECTING, Cause.AWAY, 10_000)}


def test_a_cohort_above_the_population_is_refused() -> None:
    with pytest.raises(TaskError, match="selects 5 of 3 clients") as caught:
        SynchronousClock(terms(goal=4, select=5), Hands([Device()] * 3))
    assert "3 at most" in caught.value.fix


def test_whom_a_plan_draws_takes_part_whoever_of_them_is_there() -> None:
    devices = [Device(), Device(there=[(500, 600)]), Device(), Device()]
    asked: list[int] = []

    def drawn(number: int) -> set[int]:
        asked.append(number)
        return {1, 3}

    found = attempt(terms(goal=4, minimum=3), devices, work(1, 1, 1, 1), drawn=drawn)
    assert asked == [1] and found.completed and found.survivors == (3,)
    assert found.begin == 0 and found.spans[0].end == 100_000  # it is not told who else was drawn


def test_only_those_who_may_are_selected() -> None:
    for number in range(5):
        clock = SynchronousClock(terms(goal=2), Hands([Device()] * 6))
        found = clock.round(number, ClockState(), work(*[1] * 6), among=lambda _: {1, 4, 5}).last
        assert set(found.cohort) <= {1, 4, 5}


def test_a_session_of_the_mode_decides_who_goes_on() -> None:
    class Picky:
        def __init__(self, attempt: int) -> None:
            self.attempt = attempt

        def close(self, phase: Phase, arrived: frozenset[int]) -> frozenset[int]:
            if self.attempt == 1:
                raise TaskError("no", why="not yet")
            return arrived - {2}

        def release(self, survivors: frozenset[int]) -> bytes:
            return np.full(32, len(survivors), np.uint8).tobytes()

    clock = SynchronousClock(terms(goal=3, minimum=2, max_attempts=2), Hands([Device()] * 3))
    timeline = clock.round(0, ClockState(), work(1, 1, 1), session=Picky)
    first, second = timeline.attempts
    assert "FED-1601 no: not yet" in first.state.reason and first.state.phase is Phase.ABANDONED
    assert second.survivors == (0, 1) and second.state.digest == bytes([2]) * 32
    assert losses(second) == {2: (Phase.COLLECTING, Cause.UNUSED, 0)}
