"""Ray's actors find what local workers find, and whoever of them is lost is replaced."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedcore.errors import ArgumentError, InstallError, SimulationError, TaskError
from fedsim.engine import Engine, Facts, Plan
from fedsim.engine.ray_cluster import Cluster
from fedsim.engine.ray_pool import RayActors
from fedsim.engine.scratch import Scratch
from fedsim.scenario_spec import EngineSpec
from tests.sim.engine import test_engine
from tests.sim.engine.studies import played, study_of
from tests.sim.engine.test_pools import PEOPLE, SIZES, TASK, THETA, check_everything, check_held_out
from tests.sim.engine.test_study import PEOPLE as STUDENTS
from tests.sim.run.test_simulation import run
from tests.sim.scenarios import scenario_of

EVERYBODY = range(len(SIZES))
MISSING = find_spec("ray") is None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two CPUs of this machine, which engines find this process connected to."""
    made = Cluster(None, workers=2)
    yield made
    made.close()
    with warnings.catch_warnings():  # of processes that Ray has ended, and does not ask about
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def kill(engine: Engine, member: int) -> None:
    pool = engine._pool
    assert isinstance(pool, RayActors)
    asked = pool._members[member].actor.__ray_call__.remote(lambda self: os.getpid())
    os.kill(pool._cluster.get(asked), signal.SIGKILL)


def test_without_ray_an_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InstallError, match="ray") as refused:
        Engine(Plan(task=TASK, way="floats"), PEOPLE, workers=2, kind="ray")
    assert ".[ray]" in refused.value.fix


def test_an_address_is_that_of_a_cluster_of_ray() -> None:
    for address in ("10.0.0.1:6379", "ray://head.example:10001", "auto"):
        assert EngineSpec(kind="ray", address=address).address == address
        with pytest.raises(TaskError, match="engine"):
            EngineSpec(kind="processes", address=address)
    with pytest.raises(TaskError, match="address"):
        EngineSpec(kind="ray", address="somewhere")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(MISSING, reason="needs Ray: pip install -e '.[ray]'")
class TestActors:
    @pytest.mark.parametrize("way", ["floats", "grid", "words"])
    def test_sums_are_the_same_to_the_bit(self, cluster: Cluster, way: str) -> None:
        alone, together = (test_engine.summed(way, kind, 2) for kind in ("threads", "ray"))  # type: ignore[arg-type]
        assert alone.vector is not None and together.vector is not None
        assert alone.vector.tobytes() == together.vector.tobytes()
        assert alone.reports == together.reports

    def test_who_is_killed_is_replaced_and_its_clients_are_trained_again(
        self, cluster: Cluster
    ) -> None:
        plan = Plan(task=TASK, way="floats")
        with Engine(plan, PEOPLE, workers=2, kind="ray") as engine:
            expected = engine.sum(EVERYBODY, THETA, Facts(0))
            kill(engine, 1)
            found = engine.sum(EVERYBODY, THETA, Facts(0))
            assert expected.vector is not None and found.vector is not None
            assert found.vector.tobytes() == expected.vector.tobytes()
            assert found.reports == expected.reports
            check_everything(engine)

    def test_rows_that_are_held_out_reach_actors(self, cluster: Cluster) -> None:
        check_held_out(workers=2, kind="ray")

    def test_what_clients_keep_comes_and_goes_with_their_jobs(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        alone, together = (
            played(
                TASK,
                STUDENTS,
                study_of(tmp_path / kind, "scaffold", compressed=True),
                workers=2,
                kind=kind,
            )
            for kind in ("threads", "ray")
        )
        assert alone[0].tobytes() == together[0].tobytes()
        assert alone[1:] == together[1:]
        kept = [
            {path.name: path.read_bytes() for path in (tmp_path / kind).glob("*/*")}
            for kind in ("threads", "ray")
        ]
        assert kept[0] == kept[1] and len(kept[0]) > len(STUDENTS)

    @pytest.mark.parametrize("mode", ["plain", "fast", "exact"])
    def test_a_run_finds_the_same_models_and_records(
        self, cluster: Cluster, mode: str, tmp_path: Path
    ) -> None:
        found = [
            run(
                scenario_of(
                    mode=mode,
                    secure='profile = "malicious", gamma = 0.1, delta = 0.2',
                    goal=10,
                    minimum=8,
                    rounds=2,
                    kind=kind,
                    workers=2,
                ),
                tmp_path,
            )
            for kind in ("threads", "ray")
        ]
        assert found[0][1] == found[1][1]
        assert found[0][0].model == found[1][0].model

    def test_a_worker_that_does_not_start_says_why(self, cluster: Cluster) -> None:
        plan = Plan(task=TASK, way="floats", programs={"local": "fedsim.nowhere:Program"})
        with pytest.raises(SimulationError) as refused:
            Engine(plan, PEOPLE, workers=2, kind="ray")
        assert refused.value.why == "FED-1602 there is no program at 'fedsim.nowhere:Program'"

    def test_more_workers_than_cpus_and_a_second_connection_are_refused(
        self, cluster: Cluster
    ) -> None:
        plan = Plan(task=TASK, way="floats")
        with pytest.raises(SimulationError, match="3 workers on a cluster of 2 CPUs"):
            Engine(plan, PEOPLE, workers=3, kind="ray")
        with pytest.raises(ArgumentError, match="connected"):
            Engine(plan, PEOPLE, workers=2, kind="ray", address="10.0.0.1:6379")

    def test_workers_who_end_one_after_another_end_the_run(self, cluster: Cluster) -> None:
        plan = Plan(task=TASK, way="floats", programs={"local": f"{__name__}:DEADLY"})
        with Engine(plan, PEOPLE, workers=2, kind="ray") as engine:
            with pytest.raises(SimulationError, match="lost one after another"):
                engine.sum(EVERYBODY, THETA, Facts(0))
            with pytest.raises(SimulationError, match="closed"):
                engine.sum(EVERYBODY, THETA, Facts(0))

    def test_a_cluster_of_our_own_leaves_nothing_behind(self, root: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", OWN], cwd=root, capture_output=True, text=True, check=True
        )
        folder, *pids = done.stdout.split()  # and nothing of Ray's, though a worker was killed
        assert done.stderr == ""
        assert not Path(folder).exists()
        for pid in pids:  # a worker ends by itself once it finds that its node has ended
            with suppress(ProcessLookupError):
                ends(os.pidfd_open(int(pid)))

    def test_nothing_is_left_of_a_process_that_is_killed(self, root: Path) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", KILLED], cwd=root, stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None
            folder, *pids = parent.stdout.readline().split()
            workers = [os.pidfd_open(int(pid)) for pid in pids]
            parent.kill()
            parent.wait()
            for worker in workers:
                ends(worker)
        Scratch.new().remove()  # whoever makes the next removes those of the dead
        assert not Path(folder).exists()


class Deadly:
    """Ends whoever trains by it."""

    def train(self, request: object) -> None:
        os._exit(1)


DEADLY = Deadly()

COMMON = """
import os, psutil, signal, sys, time
from fedsim.engine import Engine, Facts, Plan
from tests.sim.engine.test_pools import PEOPLE, TASK, THETA
from tests.sim.engine.test_ray import EVERYBODY, kill
def told(engine):
    children = psutil.Process().children(recursive=True)
    # Ray's agents take a minute to find out that their node has died.
    pids = [child.pid for child in children if "Agent" not in " ".join(child.cmdline())]
    return [engine._pool._cluster._scratch.folder, *pids]
"""
OWN = f"""{COMMON}
before = dict(os.environ), signal.getsignal(signal.SIGTERM)
assert "ray" not in sys.modules
with Engine(Plan(task=TASK, way="grid"), PEOPLE, workers=2, kind="ray") as engine:
    said = told(engine)
    server = next(p for p in map(psutil.Process, said[1:]) if p.name() == "gcs_server")
    assert server.environ()["RAY_USAGE_STATS_ENABLED"] == "0"
    kill(engine, 1)
    engine.sum(EVERYBODY, THETA, Facts(0))
    assert (dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
print(*said)
"""
KILLED = f"""{COMMON}
engine = Engine(Plan(task=TASK, way="grid"), PEOPLE, workers=2, kind="ray")
print(*told(engine), flush=True)
time.sleep(60)
"""


def ends(process: int) -> None:
    """Waits until the process has ended of which this is the descriptor."""
    assert select.select([process], [], [], 60)[0]  # it can be read from then
    os.close(process)
