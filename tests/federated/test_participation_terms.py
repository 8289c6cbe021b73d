"""Rounds that clients may not come to often enough are refused with the task."""

from __future__ import annotations

import re
from itertools import product

import pytest

from fedcore.errors import TaskError
from fedcore.federated.task import Task
from tests.federated.conftest import SMALL, write_toml
from tests.federated.private_tasks import client_privacy

ROUNDS = 6


def refusal(*, people: int, minimum: int, **bounds: int) -> TaskError | None:
    changed = {
        "privacy": client_privacy(population=people, **bounds),
        "rounds": {"count": ROUNDS},
        "cohort": {"goal": 9, "minimum": minimum},
    }
    try:
        Task.from_toml(write_toml(SMALL | changed))
    except TaskError as error:
        return error
    return None


def is_possible(*, people: int, minimum: int, most: int, apart: int) -> bool:
    """Whether it goes well where those come who have waited longest: nobody does better."""
    last, times = [-apart] * people, [0] * people
    for number in range(ROUNDS):
        may = [one for one in range(people) if number - last[one] >= apart and times[one] < most]
        if len(may) < minimum:
            return False
        for one in sorted(may, key=lambda one: (times[one], last[one]))[:minimum]:
            last[one], times[one] = number, times[one] + 1
    return True


@pytest.mark.parametrize("people", [4, 5, 7, 9])
def test_it_is_refused_where_not_even_the_best_choice_of_clients_would_do(people: int) -> None:
    for most, apart, minimum in product((1, 2, 3, 6), (1, 2, 3, 7), (3, 4, 5)):
        refused = refusal(
            people=people,
            minimum=minimum,
            maximum_participations=most,
            minimum_separation=apart,
        )
        fits = is_possible(people=people, minimum=minimum, most=most, apart=apart)
        assert (refused is None) == fits, (most, apart, minimum)


@pytest.mark.parametrize(("most", "apart"), [(1, 1), (3, 4), (1, 3), (2, 7)])
def test_what_is_said_to_do_does_one_thing_after_the_other(most: int, apart: int) -> None:
    terms = {"maximum_participations": most, "minimum_separation": apart}
    seen = 0
    while (refused := refusal(people=7, minimum=3, **terms)) is not None:
        seen += 1
        (name, value), *_ = re.findall(r"set (\w+) = (\d+)", refused.fix)
        assert refused.what.startswith(f"{name} = ") and terms[name] != int(value)
        terms[name] = int(value)
    assert 0 < seen <= 2


def test_more_clients_are_needed_than_there_are() -> None:
    refused = refusal(people=2, minimum=3, maximum_participations=6)
    assert refused is not None and refused.what.startswith("population = 2 ")
