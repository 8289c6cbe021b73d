"""What is said of an attempt when it is over: from what the machine knows, and what really was."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedcore.rounds import CLIENT_PHASES, Phase, RoundState
from fedcore.rounds.state import LEFT_OUT, SURPLUS
from fedcore.secagg.loopback import LostAt
from fedsim.clock.attempt import AttemptRun, place_of
from fedsim.clock.course import Course
from fedsim.clock.timeline import Attempt, Cause, Loss
from fedsim.clock.work import Traffic

__all__ = ["recorded"]


def recorded(run: AttemptRun) -> Attempt:
    """What came of an attempt that is over."""
    state = run.state
    ends = {one.from_phase: one.at for one in run.transitions}
    lost = {place_of(client): loss for client, loss in run.left.items()}
    for row, client in enumerate(run.cohort):
        if client in state.lost:
            lost[place_of(client)] = _loss(state, client, run.course, row, ends)
        elif client not in state.survivors:
            phase = run.transitions[-1].from_phase
            lost[place_of(client)] = Loss(phase, Cause.GIVEN_UP, ends[phase])
    return Attempt(
        state=state,
        transitions=tuple(run.transitions),
        cohort=tuple(map(place_of, run.cohort)),
        reported={place_of(one): run.reports[one] for one in sorted(state.survivors)},
        lost=lost,
        roster=_roster(run),
        silent_from=_silent_from(run, ends),
        traffic=_traffic(run, ends),
        begin=run.transitions[0].at,
        end=run.now,
    )


def _loss(
    state: RoundState, client: bytes, course: Course, row: int, ends: Mapping[Phase, int]
) -> Loss:
    """Who was gone before its phase ended was lost by that, whatever a server takes it for."""
    phase, why = state.lost[client]
    gone, end = int(course.gone[row]), ends[phase]
    if why == LEFT_OUT:
        return Loss(phase, Cause.UNUSED, end)
    if gone <= end:
        return Loss(phase, course.cause(row), gone)
    return Loss(phase, Cause.SURPLUS if why == SURPLUS else Cause.SLOW, end)


def _roster(run: AttemptRun) -> tuple[int, ...]:
    members = [one.cohort for one in run.transitions if one.from_phase is Phase.KEYS]
    return tuple(sorted(map(place_of, *members))) if members else ()


def _silent_from(run: AttemptRun, ends: Mapping[Phase, int]) -> dict[int, LostAt]:
    """Of everyone in the roster that did not do all of its part, what a session sees of it."""
    goes_on = {one.from_phase: one.cohort for one in run.transitions}
    if Phase.SHARES not in goes_on or not run.state.digest:
        return {}
    found = {}
    for row, client in enumerate(run.cohort):
        if client not in goes_on[Phase.KEYS]:
            continue
        place = place_of(client)
        if client not in goes_on[Phase.SHARES]:
            found[place] = LostAt.SHARES
        elif client not in run.state.survivors:
            begun = run.course.begun[row] < ends[Phase.COLLECTING]
            found[place] = LostAt.UPLOADING if begun else LostAt.UPLOAD
        elif client not in run.arrived[Phase.UNMASKING]:
            confirmed = client in run.arrived.get(Phase.CONFIRMING, ())
            found[place] = LostAt.ANSWER if confirmed else LostAt.CONFIRMATION
    return found


def _traffic(run: AttemptRun, ends: Mapping[Phase, int]) -> dict[Phase, Traffic]:
    found = {}
    begins = {one.to_phase: one for one in run.transitions}
    for phase in CLIENT_PHASES:
        if phase not in begins:
            continue
        if phase is Phase.COLLECTING:
            received = int((run.course.downloaded <= ends[phase]).sum())
        else:
            rows = [row for row, one in enumerate(run.cohort) if one in begins[phase].cohort]
            received = int((run.course.gone[np.array(rows, np.int64)] > begins[phase].at).sum())
        sent = len(run.arrived[phase])
        found[phase] = run.work.traffic(phase).times(received, sent)
    return found
