"""Clients that privacy lets come too seldom are told before the first round, with what would do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import FedcoreError, TaskError
from fedsim.modes.foreseen import require_possible
from fedsim.run.folder import RunFolder
from fedsim.run.simulation import plan_of, simulate_in_folder
from fedsim.scenario import Scenario
from fedsim.world import World
from tests.random_examples import thorough
from tests.sim.scenarios import scenario_of

LOSSES = "[devices]\ndropout = { training = 0.2 }"
CYCLES = '[devices]\navailability = { kind = "cycle", share = 0.6, period_s = 100.0 }'


def bounded(
    *, most: int = 100, apart: int = 1, rounds: int = 8, more: str = "", **changed: Any
) -> Scenario:
    """12 clients, of whom 6 take part in a round and 3 have to."""
    return scenario_of(
        rounds=rounds,
        more=more,
        **changed,
        privacy=(
            'unit = "client", epsilon = 30.0, delta = 1e-2, population = 24, clipping_norm = 1.0,'
            f' noise = "central", minimum_separation = {apart}, maximum_participations = {most}'
        ),
    )


def refusal(scenario: Scenario) -> TaskError | None:
    try:
        require_possible(scenario, World.of(scenario))
    except TaskError as error:
        return error
    return None


def completed(scenario: Scenario, root: Path, name: str) -> int:
    return ended(scenario, root, name)[0]


def ended(scenario: Scenario, root: Path, name: str) -> tuple[int, str]:
    """How many rounds came to their ends, and what ended it."""
    with RunFolder.create(root, plan_of(scenario), path=root / name) as folder:
        try:
            why = simulate_in_folder(scenario, folder).ended
        except FedcoreError as error:
            why = str(error)
        return len(folder.rounds), why


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", LOSSES, CYCLES], ids=["ideal", "lossy", "away"])
@pytest.mark.parametrize(("most", "apart"), [(2, 1), (3, 1), (100, 3), (2, 2), (4, 2), (5, 1)])
def test_what_is_not_refused_runs_and_what_is_refused_would_have_ended_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, apart: int, more: str
) -> None:
    scenario = bounded(most=most, apart=apart, more=more)
    refused = refusal(scenario)
    monkeypatch.setattr("fedsim.run.simulation.require_possible", lambda *_: None)
    done = completed(scenario, tmp_path, "a")
    if refused is None:
        assert done == 8
    else:
        assert f"round {done + 1} of 8 " in refused.what


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", CYCLES], ids=["ideal", "away"])
@pytest.mark.parametrize(("most", "apart"), [(2, 1), (100, 3), (1, 4)])
def test_each_remedy_runs_and_the_next_smaller_change_does_not(
    tmp_path: Path, most: int, apart: int, more: str
) -> None:
    refused = refusal(bounded(most=most, apart=apart, more=more))
    assert refused is not None
    changed = dict(re.findall(r"([a-z_]+) = (\d+)", refused.fix))
    rounds = int(changed.pop("count"))
    terms = {
        "most": int(changed.get("maximum_participations", most)),
        "apart": int(changed.get("minimum_separation", apart)),
    }
    assert completed(bounded(**terms, more=more), tmp_path, "a") == 8
    assert (
        completed(bounded(most=most, apart=apart, rounds=rounds, more=more), tmp_path, "b")
        == rounds
    )
    if terms["most"] > most:
        assert refusal(bounded(**terms | {"most": terms["most"] - 1}, more=more)) is not None
    if terms["apart"] < apart:
        nearer = terms | {"apart": terms["apart"] + 1, "most": 100}
        assert refusal(bounded(**nearer, more=more)) is not None


def test_what_would_do_is_said_and_does(tmp_path: Path) -> None:
    refused = refusal(bounded(most=2))
    assert refused is not None and refused.where == "privacy.maximum_participations"
    found = re.search(r"maximum_participations = (\d+)", refused.fix)
    assert found is not None and refusal(bounded(most=int(found[1]))) is None


def test_rounds_for_which_enough_clients_are_certain_are_not_gone_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = bounded(most=8)
    world = World.of(scenario)
    monkeypatch.setattr("fedsim.clock.SynchronousClock.round", None)
    require_possible(scenario, world)


def test_a_run_whose_clients_may_come_no_more_ends_with_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.run.simulation.require_possible", lambda *_: None)
    scenario = bounded(most=2)
    with RunFolder.create(tmp_path, plan_of(scenario)) as folder:
        result = simulate_in_folder(scenario, folder)
    assert 0 < result.totals.rounds < 8 and "may still take part" in result.ended
    assert (folder.path / "model.safetensors").exists()


FEW: dict[str, Any] = {"partition": 'name = "iid"', "rows": 240, "more": LOSSES}


def test_attempts_given_up_are_paid_for_and_who_pays_with_all_he_has_is_told_before() -> None:
    spent = {**FEW, "clients": 8, "minimum": 6, "goal": 7, "most": 4}
    refused = refusal(bounded(**spent, rounds=2))
    assert refused is not None and "used up before the first round" in refused.what
    found = re.search(r"set rounds\.count = (\d+)", refused.fix)
    assert found is not None and refusal(bounded(**spent, rounds=int(found[1]))) is None


def test_a_budget_that_failures_have_used_up_is_no_remedy_for_too_few_clients() -> None:
    often = {**FEW, "clients": 3, "minimum": 3, "goal": 3, "rounds": 1}
    refused = refusal(bounded(**often, most=2))
    assert refused is not None and "maximum_participations =" not in refused.fix
    assert refusal(bounded(**often, most=3)) is not None


@pytest.mark.parametrize("make", [bounded, scenario_of], ids=["private", "open"])
def test_fewer_than_a_round_needs_are_ever_there_at_once_is_told_with_how_many_are(
    make: Callable[..., Scenario],
) -> None:
    terms = {**FEW, "clients": 12, "goal": 12, "rounds": 2, "more": CYCLES}
    refused = refusal(make(**terms, minimum=12))
    assert refused is not None and refused.where == "cohort.minimum"
    found = re.search(r"let cohort.minimum be (\d+) at most", refused.fix)
    assert found is not None and refusal(make(**terms, minimum=int(found[1]))) is None


@pytest.mark.slow
@settings(max_examples=thorough(25), deadline=None)
@given(st.data())
def test_whatever_is_accepted_releases_something_and_each_remedy_all(data: st.DataObject) -> None:
    clients = data.draw(st.sampled_from([3, 5, 8, 12]), label="clients")
    minimum = data.draw(st.integers(2, clients), label="minimum")
    rounds = data.draw(st.integers(1, 6), label="rounds")
    # A task by itself is refused if even all clients together may not come often enough.
    far = [apart for apart in (1, 2, 3, 100) if minimum * min(apart, rounds) <= clients]
    terms: dict[str, Any] = {
        **FEW,
        "clients": clients,
        "minimum": minimum,
        "rounds": rounds,
        "goal": data.draw(st.integers(minimum, clients), label="goal"),
        "most": data.draw(st.integers(-(-minimum * rounds // clients), 6), label="most"),
        "apart": data.draw(st.sampled_from(far), label="apart"),
        "more": data.draw(st.sampled_from(["", LOSSES, CYCLES]), label="devices"),
    }
    scenario = bounded(**terms)
    refused = refusal(scenario)
    with TemporaryDirectory() as root:
        if refused is None:
            done, why = ended(scenario, Path(root), "a")
            assert done or "given up" in why or "may still take part" in why, why
            return
        for number, remedy in enumerate(re.split(r", or (?=set)", refused.fix)):
            changed = dict(re.findall(r"(?:privacy|rounds)\.([a-z_]+) = (\d+)", remedy))
            names = {"maximum_participations": "most", "minimum_separation": "apart"}
            found = {names.get(name, "rounds"): int(value) for name, value in changed.items()}
            if found:
                done, why = ended(bounded(**terms | found), Path(root), str(number))
                least = 1 if "used up" in refused.what else (terms | found)["rounds"]
                assert done >= least, f"{remedy}: {why}"
