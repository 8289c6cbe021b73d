"""What a scenario's rounds ask of devices, before the first of them: and whether they can."""

from __future__ import annotations

from dataclasses import replace

from fedsim.clock import BufferedClock, ClockState, Terms, Work, require_reports
from fedsim.modes.participations import require_participations
from fedsim.modes.rounds import timelines_of
from fedsim.modes.studies import rule_of, study_work
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["require_possible", "work_of"]


def work_of(scenario: Scenario, world: World) -> Work:
    """What a round, or a start of a buffered schedule, asks of each device."""
    if scenario.study.any:
        return study_work(scenario, world)
    return Work.of(scenario.task, world.population.sizes())


def require_possible(scenario: Scenario, world: World) -> None:
    """Raises: TaskError where it is certain that no round of a scenario comes to its end.

    All that a run would refuse before its first round is refused here.
    """
    terms, needed = Terms.of(scenario.task), scenario.task.cohort.minimum
    if scenario.clock.schedule == "buffered":
        BufferedClock(scenario.clock, terms, world.devices)
        # One client may make all updates, and each comes as it is, whatever sessions the task has.
        needed = 1
        open_ = replace(terms.policy, minimum=1, secure=False, confirming=False)
        terms = replace(terms, policy=open_, session=None)
    rule_of(scenario.study, scenario.task.cohort.minimum)
    if scenario.task.plan is not None:
        needed = 1  # of those that are drawn, whoever comes is enough
    work = work_of(scenario, world)
    require_reports(terms, world.devices, work, needed=needed)
    if scenario.clock.schedule == "buffered":
        return
    clock, _ = timelines_of(scenario, world)
    if not (scenario.devices.ideal or scenario.draws_clients):
        clock.round(0, ClockState(), work)  # raises where too few are ever there to begin it
    if scenario.task.plan is not None:
        require_participations(scenario, world, clock, work)
