"""A comparison tells in what runs differ, what came of each, and when targets were reached."""

from __future__ import annotations

import json

import pytest

from fedcore.errors import ArgumentError
from fedsim.records import Mode
from fedsim.records.plain_json import to_plain
from fedsim.report.compare import compare, comparison_charts
from fedsim.report.comparison_text import render_comparison, render_comparison_page
from tests.sim.records.samples import record
from tests.sim.report.reading_pages import Page, require_harmless
from tests.sim.report.runs import HOSTILE, learning, learning_privately, run_of

SLOW = run_of(learning(0.2, 0.5, 0.7, 0.8), id="slow", scenario={"clock": {"seed": 1}, "lr": 0.1})
QUICK = run_of(learning(0.6, 0.91, 1.0), id="quick", scenario={"clock": {"seed": 1}, "lr": 1})


def test_a_setting_is_listed_exactly_when_runs_differ_in_it() -> None:
    found = compare([SLOW, QUICK])
    assert [(d.setting, d.values) for d in found.differences] == [("scenario.lr", (0.1, 1))]
    assert compare([SLOW, SLOW]).differences == ()


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0, None), ([1], [1.0])])
def test_values_that_python_takes_for_equal_are_told_apart(one: object, other: object) -> None:
    runs = [run_of(learning(0.5), scenario={"x": value}) for value in (one, other)]
    assert [d.setting for d in compare(runs).differences] == ["scenario.x"]


def test_a_setting_that_only_one_run_has_is_a_difference_even_if_it_is_none() -> None:
    runs = [run_of(learning(0.5), scenario=table) for table in ({"x": None}, {})]
    assert [d.setting for d in compare(runs).differences] == ["scenario.x"]


def test_targets_are_shares_of_the_best_unless_they_are_given() -> None:
    reached = [one.reached for one in compare([SLOW, QUICK]).outcomes]
    assert [(r.target, r.round) for r in reached[1]] == [(0.9, 1), (0.95, 2)]
    assert [r.round for r in reached[0]] == [None, None]
    (given,) = compare([SLOW, QUICK], targets=[0.7]).outcomes[0].reached
    assert (given.round, given.virtual_s) == (2, SLOW.rounds[2].end_s)


def test_a_target_counts_from_the_first_round_that_reached_it_though_it_was_lost_again() -> None:
    wavering = run_of(learning(0.9, 0.1, 0.95))
    assert compare([wavering, SLOW], targets=[0.9]).outcomes[0].reached[0].round == 0


@pytest.mark.parametrize("target", [0.0, -1.0, 90.0, float("nan")])
def test_a_target_that_is_no_accuracy_is_refused(target: float) -> None:
    with pytest.raises(ArgumentError, match="accuracy"):
        compare([SLOW, QUICK], targets=[target])


def test_one_run_alone_cannot_be_compared() -> None:
    with pytest.raises(ArgumentError, match="1 runs"):
        compare([SLOW])


def test_runs_that_measured_nothing_or_have_not_begun_can_be_compared() -> None:
    runs = [run_of([record(test=None)], id="blind"), run_of([], id="new")]
    found = compare(runs)
    assert [one.reached for one in found.outcomes] == [(), ()]
    assert not found.same_model
    assert "not ended" in render_comparison(found)
    assert comparison_charts(runs) == {}
    require_harmless(Page(render_comparison_page(runs, found)))


def test_runs_that_found_one_model_are_said_to() -> None:
    exact = run_of(learning(0.5, mode=Mode.EXACT), id="exact")
    fast = run_of(learning(0.5), id="fast")
    found = compare([exact, fast])
    assert found.same_model
    assert [d.setting for d in found.differences] == ["mode"]
    assert f"same model, {exact.rounds[-1].model}" in render_comparison(found)


def test_copies_of_one_run_have_labels_of_their_own() -> None:
    assert [one.label for one in compare([SLOW, SLOW, QUICK]).outcomes] == [
        "slow #1",
        "slow #2",
        "quick",
    ]


def test_the_data_of_a_comparison_are_json() -> None:
    data = to_plain(compare([SLOW, QUICK]))
    assert isinstance(data, dict)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert set(data) == {"outcomes", "differences", "same_model"}


def test_the_text_names_all_that_there_is_to_compare() -> None:
    private = run_of(learning_privately(0.5, 0.85), id="private", private=True)
    text = render_comparison(compare([QUICK, private]))
    lines = text.splitlines()
    head = "run mode rounds accuracy best loss epsilon down up virtual time computed in"
    assert " ".join(lines[0].split()) == head
    assert lines[2].split()[:7] == ["private", "fast", "2", "85.0%", "85.0%", "0.150", "0.80/4.00"]
    assert "never" in text and "round 2, 20.0 s" in text
    assert "scenario.lr" in text


def test_a_plain_run_is_labelled_wherever_it_is_compared() -> None:
    runs = [run_of(learning(0.5, mode=Mode.PLAIN), id="bare"), QUICK]
    found = compare(runs)
    assert "NOT PRIVATE" in render_comparison(found)
    assert f"bare: {Mode.PLAIN.words}" in Page(render_comparison_page(runs, found)).texts


def test_hostile_names_act_neither_on_a_terminal_nor_on_a_page() -> None:
    one = run_of(learning(0.5), id=HOSTILE, name=HOSTILE, scenario={HOSTILE: HOSTILE})
    runs = [one, one, QUICK]
    found = compare(runs)
    assert all(line.isprintable() for line in render_comparison(found).split("\n"))
    page = Page(render_comparison_page(runs, found))
    require_harmless(page)
    assert set(page.tags) == set(Page(render_comparison_page([SLOW, QUICK], found)).tags)


def test_a_page_of_many_runs_is_titled_by_how_many_they_are_or_as_it_is_told() -> None:
    runs = [run_of(learning(0.5), id=str(number)) for number in range(5)]
    page = render_comparison_page(runs, compare(runs))
    assert "<title>5 runs compared</title>" in page
    assert "<title>a sweep</title>" in render_comparison_page(runs, compare(runs), title="a sweep")


def test_all_runs_are_in_one_chart_each_for_what_was_measured() -> None:
    charts = comparison_charts([SLOW, QUICK])
    assert set(charts) == {
        f"{what}-by-{by}" for what in ("accuracy", "loss") for by in ("round", "virtual-time")
    }
    by_time = charts["accuracy-by-virtual-time"]
    assert [line.name for line in by_time.lines] == ["slow", "quick"]
    assert list(by_time.lines[1].points) == [(10.0, 0.6), (20.0, 0.91), (30.0, 1.0)]
