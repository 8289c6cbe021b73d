"""Clients' models are measured on rows that they hold out, where they do, and it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from fedcore import nn
from fedcore.data import Dataset
from fedcore.errors import ArgumentError
from fedcore.federated.flat import FlatModel
from fedcore.metrics import accuracy
from fedcore.training import evaluate
from fedsim.records import OwnRows, RoundRecord
from fedsim.run.outcome import simulate
from fedsim.run.own_models import own_models
from fedsim.scenario import Scenario
from fedsim.world import World
from tests.sim.scenarios import scenario_of

NAMES = ("ann", "bob", "cleo", "dan")
NATURAL = 'name = "natural"'


def written(folder: Path, *, whose: Sequence[str] = NAMES) -> Path:
    """Four people's rows to train on, and rows to test on of these; each person's labels differ."""
    random = np.random.default_rng(3)

    def rows(ids: Sequence[str], each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        owner = np.repeat(ids, each)
        x = random.normal(size=(len(owner), 6)).astype(np.float32)
        # Labels are noise: what a model learns by heart helps it with no other row.
        return x, random.integers(0, 3, len(owner)), owner

    x, y, ids = rows(NAMES, 20)
    x_test, y_test, ids_test = rows(whose, 15)
    np.savez(
        folder / "people.npz", x=x, y=y, ids=ids, x_test=x_test, y_test=y_test, ids_test=ids_test
    )
    return folder


def people_of(folder: Path, **options: object) -> Scenario:
    """A scenario of what `written` wrote, in which clients are measured after each round."""
    population = options.pop("population", "")
    given = {
        "mode": "plain",
        "goal": 4,
        "rounds": 2,
        "clients": 4,
        "clients_every": 1,
        "partition": NATURAL,
    }
    text = scenario_of(**{**given, **options}).text  # type: ignore[arg-type]
    begin = text.index("source = {")
    source = f'source = {{ name = "npz", path = "people.npz" }}\n{population}'
    end = text.index("\n", begin)
    return Scenario.from_toml(text[:begin] + source + text[end:], base=folder)


def accuracies(
    scenario: Scenario,
    models: Mapping[str, np.ndarray],
    rows: Mapping[str, Dataset],  # type: ignore[type-arg]
) -> list[float]:
    found = []
    for name, data in rows.items():
        model = FlatModel(scenario.task).model(models[name])
        found.append(evaluate(model, data, loss=nn.cross_entropy, metrics=[accuracy])["accuracy"])
    return found


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("algorithm", ["fedavg", "ditto"])
def test_models_are_measured_on_the_test_rows_that_bear_their_clients_ids(
    tmp_path: Path, algorithm: str, workers: int
) -> None:
    scenario = people_of(
        written(tmp_path, whose=NAMES[:3]),
        algorithm=f'name = "{algorithm}", lr = 1.0',
        workers=workers,
        kind="processes",
    )
    world = World.of(scenario)
    outcome = simulate(scenario, folder=tmp_path / "run")
    models = own_models(scenario, world, tmp_path / "run")
    test, whose = world.source.test, world.source.test_ids
    assert test is not None and whose is not None
    rows = {name: test[whose == name] for name in NAMES[:3]}
    expected = accuracies(scenario, models, rows)
    assert outcome.result.clients is not None and outcome.result.clients.clients == 3
    assert outcome.result.clients.mean == pytest.approx(np.mean(expected))
    assert {record.own_rows for record in outcome.rounds} == {OwnRows.HELD_OUT}
    assert outcome.result.own_rows is OwnRows.HELD_OUT
    if algorithm == "ditto":
        assert outcome.result.personal["accuracy"] == pytest.approx(np.mean(expected))


def test_what_is_measured_changes_no_model(tmp_path: Path) -> None:
    written(tmp_path)
    models = {
        simulate(people_of(tmp_path, clients_every=every, algorithm='name = "ditto"')).result.model
        for every in (0, 1)
    }
    assert len(models) == 1


@pytest.mark.parametrize(
    ("whose", "options"),
    [
        (NAMES, {"partition": 'name = "iid"'}),
        (("eve", "fay"), {}),
    ],
    ids=["dealt otherwise", "other people's"],
)
def test_where_nobody_knows_whose_the_test_rows_are_models_are_measured_on_training_rows(
    tmp_path: Path, whose: Sequence[str], options: dict[str, object]
) -> None:
    scenario = people_of(written(tmp_path, whose=whose), **options)
    world = World.of(scenario)
    outcome = simulate(scenario)
    rows = {one.name: one.dataset for one in world.population}
    expected = accuracies(scenario, dict.fromkeys(rows, outcome.theta), rows)
    assert outcome.result.clients is not None and outcome.result.clients.clients == 4
    assert outcome.result.clients.mean == pytest.approx(np.mean(expected))
    assert {record.own_rows for record in outcome.rounds} == {OwnRows.TRAINING}


@pytest.mark.parametrize("partition", [NATURAL, 'name = "dirichlet", alpha = 0.5, minimum = 3'])
def test_of_any_partition_clients_may_hold_out_a_share_that_they_are_measured_on(
    tmp_path: Path, partition: str
) -> None:
    written(tmp_path)
    whole = World.of(people_of(tmp_path, partition=partition)).population.partition
    scenario = people_of(tmp_path, partition=partition, population="held_out = 0.25")
    world = World.of(scenario)
    people, outcome = world.population, simulate(scenario)
    for place, rows in enumerate(whole):
        kept, out = people.partition[place], people.measured_rows(place)
        assert len(out) == np.floor(len(rows) / 4 + 0.5)
        assert sorted([*kept, *out]) == sorted(rows)
    data = {people.names[place]: people.data[people.measured_rows(place)] for place in range(4)}
    expected = accuracies(scenario, dict.fromkeys(data, outcome.theta), data)
    assert outcome.result.clients is not None
    assert outcome.result.clients.mean == pytest.approx(np.mean(expected))
    assert outcome.result.own_rows is OwnRows.HELD_OUT


@pytest.mark.slow
def test_labels_that_are_noise_are_learnt_by_heart_and_only_held_out_rows_tell(
    tmp_path: Path,
) -> None:
    """Why it matters: on training rows a personal model is flattered."""
    written(tmp_path)
    many_steps = {"rounds": 12, "clients_every": 12, "batch_size": 8}
    options = {"algorithm": 'name = "ditto"', **many_steps}
    training = simulate(people_of(tmp_path, partition='name = "iid"', **options)).result
    held = simulate(people_of(tmp_path, **options)).result
    assert training.personal["accuracy"] > 0.6 > 0.45 > held.personal["accuracy"]


def test_a_share_of_which_nobody_has_a_row_is_refused(tmp_path: Path) -> None:
    scenario = people_of(written(tmp_path), population="held_out = 0.01")
    with pytest.raises(ArgumentError, match=r"held out of clients with 20 rows at most"):
        World.of(scenario)


def test_rows_of_the_test_set_are_loaded_for_clients_only_if_they_are_measured(
    tmp_path: Path,
) -> None:
    written(tmp_path)
    asleep = World.of(people_of(tmp_path, clients_every=0))
    assert len(asleep.population.data) == 80 and asleep.population.own_rows is OwnRows.TRAINING
    world = World.of(people_of(tmp_path))
    assert len(world.population.data) == 140 and len(world.source.train) == 80
    # The rows are there once.
    assert np.shares_memory(world.source.train.x, world.population.data.x)


def test_features_that_are_shifted_are_so_on_held_out_rows_and_training_rows_stay_as_they_were(
    tmp_path: Path,
) -> None:
    written(tmp_path)
    shift = 'shift = { name = "gaussian_noise", sigma = 5.0 }'
    people = World.of(people_of(tmp_path, population=shift)).population
    settled = people.settled()
    for place in range(4):
        assert np.array_equal(settled[place].dataset.x, people[place].dataset.x)
        rows = people.measured_rows(place)
        assert len(rows) == 15 and settled.measured_rows(place).tolist() == rows.tolist()
        # Of the first the noise is none.
        assert bool(place) == (np.abs(settled.data.x[rows] - people.data.x[rows]).max() > 1)


def test_a_record_without_it_reads_as_before(tmp_path: Path) -> None:
    from fedsim.records.plain_json import from_plain, to_plain

    outcome = simulate(people_of(written(tmp_path), rounds=1))
    (record,) = outcome.rounds
    plain = to_plain(record)
    assert isinstance(plain, dict) and plain["own_rows"] == "held out"
    assert from_plain(RoundRecord, plain, place="here") == record
    older = {name: value for name, value in plain.items() if name != "own_rows"}
    assert from_plain(RoundRecord, older, place="here").own_rows is None
