"""Algorithms of a study do through the engine what they do in a plain loop over clients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.errors import ArgumentError, TaskError
from fedcore.federated.evaluation import evaluate_sums
from fedcore.federated.flat import FlatModel
from fedcore.federated.models import initial_theta
from fedcore.federated.update import UpdateLayout
from fedcore.metrics import accuracy
from fedsim.engine import Engine, Facts, Plan, Study
from tests.sim.engine.studies import ALGORITHMS, COHORTS, Server, loop, play, played, study_of
from tests.sim.tasks import DENSE, population_of, task_of
from tests.variants import mostly_slow

SIZES = (5, 12, 12, 3, 12, 1, 12, 33, 12, 7)
PEOPLE = population_of(SIZES)
BATCH = 12  # of one batch or less, but for the client of three: few programs are recorded
TASK = task_of(batch_size=BATCH, evaluation='every = 1, metrics = ["accuracy"]')
NORMALISED = DENSE.replace('kind = "relu"', 'kind = "batch_norm"\nchannels = 8')


def personal_of(study: Study, theta: Any, kept: Any, place: int) -> dict[str, float]:
    model = study.flat.model(study.algorithm.personal(theta, kept.get(place, {})))
    data = PEOPLE[place].dataset
    return evaluate_sums(model, data, loss=study.flat.loss, metrics={"accuracy": accuracy})


@pytest.mark.parametrize("compressed", mostly_slow([True, False]), ids=["compressed", "whole"])
@pytest.mark.parametrize("name", mostly_slow(ALGORITHMS, quick=4))
def test_an_algorithm_is_a_plain_loop_over_clients(
    name: str, compressed: bool, tmp_path: Path
) -> None:
    plan = study_of(tmp_path, name, compressed=compressed)
    theta, kept = loop(TASK, PEOPLE, plan)
    found, _, own = played(TASK, PEOPLE, plan, workers=1)
    close = {"rtol": 1e-3, "atol": 1e-5}  # steps in float32 against steps in float64
    np.testing.assert_allclose(found, theta, **close)
    for place, report in enumerate(own):
        expected = personal_of(Study(plan, TASK), theta, kept, place)
        np.testing.assert_allclose(
            report.measured["evaluation_loss"], expected["evaluation_loss"], **close
        )
        assert report.measured["evaluation_accuracy"] == expected["evaluation_accuracy"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scaffold", {"workers": 4, "lanes": 4}),
        *(
            pytest.param(name, options, marks=pytest.mark.slow)
            for name, options in [
                ("ditto", {"workers": 1, "lanes": 1}),
                ("qfedavg", {"workers": 1, "lanes": 1}),
                ("scaffold", {"workers": 1, "lanes": 1}),
                ("ditto", {"workers": 4, "lanes": 4}),
                ("qfedavg", {"workers": 4, "lanes": 4}),
            ]
        ),
    ],
)
def test_studies_are_the_same_to_the_bit(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    alone = played(TASK, PEOPLE, study_of(tmp_path / "a", name), workers=1)
    plan = study_of(tmp_path / "b", name, cache=500)
    together = played(TASK, PEOPLE, plan, kind="threads", **options)
    assert alone[0].tobytes() == together[0].tobytes()
    assert alone[1:] == together[1:]


@pytest.mark.parametrize(
    ("model", "compressed"),
    [
        pytest.param(DENSE, False, id="dense", marks=pytest.mark.slow),
        pytest.param(NORMALISED, True, id="all together"),
    ],
)
def test_studies_in_processes_are_the_same_to_the_bit(
    model: str, compressed: bool, tmp_path: Path
) -> None:
    task = task_of(model=model, batch_size=BATCH, optimizer='name = "sgd", momentum = 0.5')
    alone, together = (
        played(
            task,
            PEOPLE,
            study_of(tmp_path / str(count), "feddyn", compressed=compressed),
            workers=count,
        )
        for count in (1, 2)
    )
    assert alone[0].tobytes() == together[0].tobytes()
    assert alone[1:] == together[1:]


@pytest.mark.parametrize("model", mostly_slow([NORMALISED, DENSE]), ids=["batch norm", "dense"])
@pytest.mark.parametrize("way", mostly_slow(["grid", "floats"]))
def test_a_study_of_fedavg_gives_what_clients_of_the_task_give(
    model: str, way: Any, tmp_path: Path
) -> None:
    task, cohort = task_of(model=model, batch_size=BATCH), range(len(PEOPLE))
    found = []
    for study in (None, study_of(tmp_path, "fedavg")):
        plan = Plan(task=task, way=way, study=study)
        with Engine(plan, PEOPLE, workers=1) as engine:
            found.append(engine.sum(cohort, initial_theta(task), Facts(1, evaluate=True)))
    task_s, study_s = found
    assert task_s.vector is not None and study_s.vector is not None
    assert task_s.vector.tobytes() == study_s.vector.tobytes()
    assert task_s.reports == study_s.reports


def test_integers_of_a_study_are_those_of_its_vectors_with_what_was_cut_counted(
    tmp_path: Path,
) -> None:
    task = task_of(batch_size=BATCH, more="update = { range = 0.0625 }")
    plan = study_of(tmp_path, "fednova")
    theta = initial_theta(task)
    found = []
    for way in ("floats", "grid"):
        with Engine(Plan(task=task, way=way, study=plan), PEOPLE, workers=1) as engine:  # type: ignore[arg-type]
            found.append(engine.rows(COHORTS[0], theta, Facts(0)))
    (rows, _), (integers, reports) = found
    layout = replace(UpdateLayout.of(task), dimension=Study(plan, task).length)
    by_place = {report.index: report for report in reports}
    for place, row, whole in zip(COHORTS[0], rows, integers, strict=True):
        expected, _ = layout.encode(row, SIZES[place], {})
        np.testing.assert_array_equal(whole, expected)
        assert by_place[place].saturated == np.count_nonzero(np.abs(row) > layout.range) >= 1
        assert by_place[place].weight == SIZES[place]


def test_a_client_measures_the_model_that_it_is_sent(tmp_path: Path) -> None:
    theta, flat = initial_theta(TASK), FlatModel(TASK)
    plan = Plan(task=TASK, way="floats", study=study_of(tmp_path, "scaffold"))
    with Engine(plan, PEOPLE, workers=1) as engine:
        sent = Server(Study(plan.study, TASK), 10).sent()  # type: ignore[arg-type]
        found = engine.sum(range(10), theta, Facts(0, evaluate=True), sent=sent)
    for report in found.reports:
        data = PEOPLE[report.index].dataset
        assert report.measured == evaluate_sums(
            flat.model(theta), data, loss=flat.loss, metrics={"accuracy": accuracy}
        )


@pytest.mark.parametrize("name", ["ditto", "fedavg", "scaffold"])
def test_a_client_with_bad_data_fails_alone_and_keeps_nothing(name: str, tmp_path: Path) -> None:
    x, y = PEOPLE.data.x.copy(), PEOPLE.data.y.copy()
    x[PEOPLE.partition[4][3], 2], y[PEOPLE.partition[0][0]] = np.nan, 7
    people = type(PEOPLE)(Dataset(x, y), PEOPLE.partition)
    found = []
    for folder, whom, cohort in (("a", people, [0, 3, 4, 5]), ("b", PEOPLE, [3, 5])):
        plan = Plan(task=TASK, way="grid", study=study_of(tmp_path / folder, name))
        server = Server(Study(plan.study, TASK), 10)  # type: ignore[arg-type]
        with Engine(plan, whom, workers=1) as engine:
            found.append(engine.sum(cohort, server.theta, Facts(0), sent=server.sent()))
            engine.commit(0, [3, 5])
    bad, good = found
    assert bad.vector is not None and good.vector is not None
    np.testing.assert_array_equal(bad.vector, good.vector)
    assert [report.index for report in bad.reports if report.failure] == [0, 4]
    assert [r for r in bad.reports if not r.failure] == list(good.reports)
    files = [sorted(path.name for path in tmp_path.glob(f"{folder}/*/*")) for folder in "ab"]
    assert files[0] == files[1]


def test_a_study_that_cannot_be_is_refused(tmp_path: Path) -> None:
    plan = study_of(tmp_path, "scaffold")
    with pytest.raises(ArgumentError, match="words"):
        Plan(task=TASK, way="words", study=plan)
    with pytest.raises(TaskError, match="optimiser"):
        Study(plan, task_of(algorithm='name = "fedsgd", lr = 0.1'))
    with pytest.raises(TaskError, match="folder"):
        Study(type(plan)(algorithm=plan.algorithm), TASK)


def test_a_plan_comes_back_from_its_plain_values(tmp_path: Path) -> None:
    for study in (None, study_of(tmp_path, "fedper"), study_of(tmp_path, "ditto", compressed=True)):
        plan = Plan(task=TASK, way="grid", lanes=3, programs={"p": "m:a"}, study=study)
        assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "compressed",
    [pytest.param(False, id="whole"), pytest.param(True, id="compressed", marks=pytest.mark.slow)],
)
def test_rounds_after_an_abandoned_attempt_or_a_new_start_are_those_of_a_run_without(
    compressed: bool, tmp_path: Path
) -> None:
    models = []
    for folder in ("whole", "abandoned", "again"):
        study = study_of(tmp_path / folder, "scaffold", compressed=compressed)
        server = Server(Study(study, TASK), len(PEOPLE))
        plan = Plan(task=TASK, way="floats", study=study)
        workers = 1 if folder == "whole" else 2
        with Engine(plan, PEOPLE, workers=workers, kind="threads") as engine:
            play(engine, server, [0, 1])
            if folder != "whole":
                engine.sum([0, 2, 3], server.theta + 1, Facts(2), sent=server.sent())
            if folder == "again":
                engine.commit(2, [0, 3])  # and was killed before its model was kept
            else:
                engine.discard(2)
                play(engine, server, [2])
        if folder == "again":
            with Engine(plan, PEOPLE, workers=1) as engine:
                engine.rewind(2)
                play(engine, server, [2])
        models.append(server.theta.tobytes())
    assert models[0] == models[1] == models[2]
