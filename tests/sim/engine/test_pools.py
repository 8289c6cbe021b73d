"""Pools outlive what goes wrong, or end whole: no worker is left, and no file."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.errors import SimulationError
from fedcore.federated.evaluation import evaluate_sums
from fedcore.federated.flat import FlatModel
from fedcore.federated.models import initial_theta
from fedcore.federated.programs import TrainingRequest
from fedcore.federated.training import LocalTraining
from fedcore.metrics import accuracy
from fedsim.engine import Engine, Facts, Plan, Summed
from fedsim.engine.engine import Kind
from fedsim.engine.jobs import Round
from fedsim.engine.processes import Processes, Starting
from fedsim.engine.scratch import Scratch
from fedsim.partition import hold_out
from fedsim.population import Population
from tests.sim.tasks import population_of, task_of

pytestmark = pytest.mark.slow

SIZES = (5, 12, 12, 3, 300, 1, 12, 33)
PEOPLE = population_of(SIZES)
TASK = task_of(evaluation='every = 1, metrics = ["accuracy"]')
THETA = initial_theta(TASK)
FLAT = FlatModel(TASK)
OTHER = population_of((700,)).data


def expected(data: Dataset) -> dict[str, float]:
    metrics = {"accuracy": accuracy}
    return evaluate_sums(FLAT.model(THETA), data, loss=FLAT.loss, metrics=metrics)


def parts_of(engine: Engine) -> tuple[Processes, list[int], Path]:
    pool = engine._pool
    assert isinstance(pool, Processes)
    return pool, [member._process.pid for member in pool._members], pool._scratch.folder


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def check_everything(engine: Engine) -> None:
    """Rows, measures and sums are what devices find, also after a run that nobody read."""
    cohort = [4, 0, 7, 3, 1]
    rows, reports = engine.rows(cohort, THETA, Facts(2))
    device = LocalTraining()
    for place, row in zip(cohort, rows, strict=True):
        client = PEOPLE[place]
        request = TrainingRequest(
            task=TASK, theta=THETA, dataset=client.dataset, round=2, stream=client.stream
        )
        np.testing.assert_array_equal(row, device.train(request).delta)
    assert [report.index for report in reports] == sorted(cohort)
    for test in (PEOPLE.data, OTHER, OTHER):
        assert engine.measure(THETA, test) == expected(test)
    for report in engine.measure_clients([6, 4, 2], THETA):
        assert report.measured == expected(PEOPLE[report.index].dataset)
    first, abandoned = engine.sum(cohort, THETA, Facts(0)), []
    for _ in range(3):
        engine._pool.begin(Round(THETA + 1, Facts(0)))
        jobs = [engine._job([(place,)], "sum") for place in range(len(SIZES))]
        run = engine._pool.run(jobs, engine.settle)
        next(run)
        abandoned.append(run)
    again = engine.sum(cohort, THETA, Facts(0))
    assert first.vector is not None and again.vector is not None
    assert first.vector.tobytes() == again.vector.tobytes()


def check_held_out(**options: Any) -> None:
    """Whoever holds rows out is measured on these, and trained on all others."""
    trained, held = hold_out(PEOPLE.partition, share=0.3, seed=1)
    people = Population(PEOPLE.data, trained, held_out=held)
    measured = people.measured.tolist()
    assert 0 < len(measured) < len(SIZES)
    with Engine(Plan(task=TASK, way="floats"), people, **options) as engine:
        reports = engine.measure_clients(measured, THETA)
        assert [report.index for report in reports] == measured
        for report in reports:
            assert report.measured == expected(PEOPLE.data[held[report.index]])
        reports = engine.sum(measured, THETA, Facts(0)).reports
        assert [report.examples for report in reports] == trained.sizes()[measured].tolist()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_rows_that_are_held_out_reach_workers_of_every_kind(kind: Kind) -> None:
    check_held_out(workers=2, kind=kind)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_do_everything_and_outlive_runs_that_nobody_ended(workers: int) -> None:
    with Engine(Plan(task=TASK, way="floats"), PEOPLE, workers=workers, kind="threads") as engine:
        check_everything(engine)


def test_processes_do_everything_outlive_runs_and_end_with_one_that_is_killed() -> None:
    with Engine(Plan(task=TASK, way="floats"), PEOPLE, workers=2) as engine:
        check_everything(engine)
        _, pids, folder = parts_of(engine)
        assert folder.is_dir() and all(map(lives, pids))
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(SimulationError, match="worker 1 has ended with signal 9"):
            engine.sum(range(len(SIZES)), THETA, Facts(0))
        assert not folder.exists() and not any(map(lives, pids))
        with pytest.raises(SimulationError, match="closed"):
            engine.measure(THETA, OTHER)


def test_processes_that_began_early_are_taken_and_those_that_nobody_takes_end() -> None:
    plan = Plan(task=TASK, way="floats")
    with Engine(plan, PEOPLE, workers=2) as engine:
        late = engine.sum(range(len(SIZES)), THETA, Facts(0))
    with closing(Starting(3)) as starting:
        begun = {process.pid for process in starting._left}
        with Engine(plan, PEOPLE, workers=2, starting=starting) as engine:
            _, taken, _ = parts_of(engine)
            early = engine.sum(range(len(SIZES)), THETA, Facts(0))
        (left,) = begun - {*taken}
        assert lives(left)
    assert not any(map(lives, begun))
    assert early.vector is not None and late.vector is not None
    assert early.vector.tobytes() == late.vector.tobytes()


def test_a_process_whose_owner_is_killed_before_there_was_work_ends() -> None:
    process = Starting(1).take()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


def test_a_worker_that_does_not_start_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    plan = Plan(task=TASK, way="floats", programs={"local": "fedsim.nowhere:Program"})
    with pytest.raises(SimulationError, match="exit code 1") as refused:
        Engine(plan, PEOPLE, workers=2)
    assert refused.value.why == "FED-1602 there is no program at 'fedsim.nowhere:Program'"
    assert "Traceback" not in capfd.readouterr().err
    probe = Scratch.new()
    assert [*probe.folder.parent.glob(f"fedsim-{os.getpid()}-*")] == [probe.folder]
    probe.remove()


PARENT = """
import sys, time
from tests.sim.engine.test_pools import PEOPLE, TASK, parts_of
from fedsim.engine import Engine, Plan
assert "fedsim.engine.process" not in sys.modules  # or Python warns of what it runs twice
engine = Engine(Plan(task=TASK, way="grid"), PEOPLE, workers=2)
_, pids, folder = parts_of(engine)
print(*pids, folder, flush=True)
time.sleep(60)
"""


def test_nothing_is_left_of_an_engine_whose_process_is_killed(root: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=root, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        *pids, folder = parent.stdout.readline().split()
        assert Path(folder).is_dir()
        workers = [os.pidfd_open(int(pid)) for pid in pids]
        parent.kill()
        parent.wait()
        for worker in workers:  # it can be read from once the process has ended
            assert select.select([worker], [], [], 20)[0]
            os.close(worker)
    assert not Path(folder).exists()


def test_folders_of_dead_owners_are_removed_and_no_others(tmp_path: Path) -> None:
    mine = Scratch.new()
    parent = mine.folder.parent
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    dead = parent / f"fedsim-{ended.pid}-left"
    dead.mkdir()
    (dead / "x.bin").write_bytes(b"1")
    fresh = parent / f"fedsim-{os.getpid()}-fresh"  # one that is not locked yet
    fresh.mkdir()
    try:
        Scratch.new().remove()
        assert not dead.exists() and fresh.exists() and mine.folder.exists()
    finally:
        fresh.rmdir()
        mine.remove()
    assert not mine.folder.exists()


def test_a_folder_that_its_owner_holds_is_left_whatever_its_number_says() -> None:
    mine = Scratch.new()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    other = mine.folder.rename(mine.folder.with_name(f"fedsim-{ended.pid}-elsewhere"))
    Scratch.new().remove()
    assert other.exists()
    mine.folder = other
    mine.remove()


def test_an_array_that_has_no_room_is_refused_before_anybody_writes_to_it() -> None:
    scratch = Scratch.new()
    try:
        with pytest.raises(SimulationError, match="no room"):
            scratch.array("large", 1 << 50, "f4", new=True)
        assert not [*scratch.folder.iterdir()]
    finally:
        scratch.remove()


def spoilt() -> Population:
    """Clients of whom 0 has a label that is none, in the first row of all, and 6 a NaN."""
    x, y = PEOPLE.data.x.copy(), PEOPLE.data.y.copy()
    y[PEOPLE.partition[0][0]] = 9
    x[PEOPLE.partition[6][-1], 0] = np.nan
    return Population(Dataset(x, y), PEOPLE.partition)


def summed(way: str, people: Population, cohort: list[int], **options: Any) -> Summed:
    lanes = options.pop("lanes", None)
    with Engine(Plan(task=TASK, way=way, lanes=lanes), people, **options) as engine:  # type: ignore[arg-type]
        return engine.sum(cohort, THETA, Facts(0, evaluate=True))


@pytest.mark.parametrize(
    ("way", "kind", "workers", "lanes"),
    [
        *[(way, "threads", 1, lanes) for way in ("floats", "grid", "words") for lanes in (1, 8)],
        ("floats", "threads", 2, None),
        ("grid", "processes", 2, None),
    ],
)
def test_a_client_with_bad_data_fails_alone(
    way: str, kind: Kind, workers: int, lanes: int | None
) -> None:
    cohort, options = [0, 1, 2, 3, 6, 7], {"workers": workers, "kind": kind, "lanes": lanes}
    found = summed(way, spoilt(), cohort, **options)
    expected = summed(way, PEOPLE, [1, 2, 3, 7], workers=1)
    assert [report.index for report in found.reports if report.failure] == [0, 6]
    assert [report for report in found.reports if not report.failure] == list(expected.reports)
    assert found.vector is not None and expected.vector is not None
    if way == "floats":  # another tree adds them up
        np.testing.assert_allclose(found.vector, expected.vector, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(found.vector, expected.vector)


def test_where_all_clients_fail_there_is_no_sum_and_no_row() -> None:
    with Engine(Plan(task=TASK, way="floats"), spoilt(), workers=1) as engine:
        found = engine.sum([0, 6], THETA, Facts(0))
        assert found.vector is None and all(report.failure for report in found.reports)
        rows, reports = engine.rows([6, 5, 0], THETA, Facts(0))
        assert rows.shape == (1, len(THETA)) and [bool(r.failure) for r in reports] == [1, 0, 1]
        failed = [
            report.index for report in engine.measure_clients(range(8), THETA) if report.failure
        ]
        assert failed == [0]


def test_a_test_set_that_does_not_fit_is_refused_with_the_reason() -> None:
    with Engine(Plan(task=TASK, way="floats"), PEOPLE, workers=1) as engine:
        bad = Dataset(OTHER.x, np.full_like(OTHER.y, 5))
        with pytest.raises(SimulationError, match="test set") as refused:
            engine.measure(THETA, bad)
        assert "FED-" in str(refused.value.why)
