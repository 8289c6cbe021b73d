"""How many clients a task selects, whatever was learnt of those who are lost."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import pytest

from fedcore.errors import TaskError
from fedcore.federated.privacy_terms import session_parameters
from fedcore.federated.session import selection_of
from fedcore.federated.task import Task
from fedcore.rounds import DropoutEstimate, Phase
from tests.federated.conftest import SECURE
from tests.federated.private_tasks import client_privacy

RATES = (0.0, 0.1, 0.3, 0.5, 0.9, 1.0)


def losing(rate: float) -> DropoutEstimate:
    return DropoutEstimate({Phase.COLLECTING: rate})


def test_a_selection_lies_between_the_goal_and_what_the_task_asks_for(
    small_task: Callable[..., Task],
) -> None:
    task = small_task(cohort={"goal": 10, "minimum": 8, "overselection": 1.5})
    for rate in RATES:
        expected = ceil(10 / (1 - rate) - 1e-9) if rate < 1 else 15
        assert selection_of(task, losing(rate)) == min(max(expected, 10), 15)
    assert selection_of(task, DropoutEstimate.expecting(1.5)) == task.cohort.select == 15


@pytest.mark.parametrize(("goal", "overselection"), [(5, 1.2), (7, 1.25), (12, 1.25), (40, 1.25)])
def test_of_the_clients_selected_the_minimum_can_always_be_summed(
    small_task: Callable[..., Task], goal: int, overselection: float
) -> None:
    task = small_task(
        cohort={"goal": goal, "minimum": goal - 1, "overselection": overselection},
        secure_aggregation=SECURE | {"delta": 0.4},
    )
    terms = task.secure_aggregation
    assert terms is not None
    for rate in RATES:
        selected = selection_of(task, losing(rate))
        assert goal <= selected <= task.cohort.select
        assert session_parameters(terms, selected).minimum_survivors <= task.cohort.minimum
    if goal == 5:  # for which no session exists
        with pytest.raises(TaskError):
            session_parameters(terms, 5)
        assert selection_of(task, losing(0.0)) == 6


def test_a_task_with_privacy_selects_as_many_as_its_noise_was_planned_for(
    small_task: Callable[..., Task],
) -> None:
    task = small_task(
        cohort={"goal": 10, "minimum": 8, "overselection": 1.5}, privacy=client_privacy()
    )
    assert task.plan is not None
    assert {selection_of(task, losing(rate)) for rate in RATES} == {15}
