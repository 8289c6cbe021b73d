"""The same task held over gRPC and simulated ends, round by round, with the same SHA-256."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fedcore.federated.parameters import parameters_of
from fedcore.federated.task import Task
from fedcore.model_format import read_model
from fedcore.privacy import verify
from fedsim.records import Result, digest_of
from fedsim.run.folder import RunFolder
from fedsim.run.simulation import plan_of, simulate_in_folder
from fedsim.scenario import Scenario
from fedsim.world import World
from tests.chaos.deployment import Deployment
from tests.chaos.devices import Crowd, Device
from tests.chaos.programs import FED, environment
from tests.chaos.supervisor import Supervisor
from tests.chaos.tasks import written
from tests.deployed.scenarios import NAMES, data_of, scenario_text, task_text

pytestmark = pytest.mark.timeout(400)

LOCAL = """
epochs = 2
batch_size = 8
optimizer = { name = "sgd", lr = 0.1, momentum = 0.9 }
"""
DECAYING = LOCAL + 'schedule = { name = "cosine", steps = 3, final = 0.005 }\n'
ADAM = LOCAL.replace('"sgd", lr = 0.1, momentum = 0.9', '"adam", lr = 0.01')
MEASURED = '[evaluation]\nevery = 2\nmetrics = ["accuracy"]\n'
KINDS = {
    "fedavg": {"algorithm": 'name = "fedavg"', "training": LOCAL, "more": MEASURED},
    "fedsgd": {"algorithm": 'name = "fedsgd"\nlr = 0.5', "training": ""},
    "fedadam": {"algorithm": 'name = "fedadam"', "training": DECAYING},
    "fedyogi, adam on devices": {"algorithm": 'name = "fedyogi"', "training": ADAM},
    "fedprox, all alike": {
        "algorithm": 'name = "fedprox"\nmu = 0.1',
        "training": LOCAL.replace("epochs = 2", "steps = 7"),
        "more": "[update]\nweighted = false\n",
    },
    "semi-honest": {
        "algorithm": 'name = "fedavgm"',
        "training": LOCAL,
        "profile": "semi_honest",
    },
    "without masks": {"algorithm": 'name = "fedavg"', "training": LOCAL, "profile": "off"},
}
RECORDS = """
[privacy]
unit = "record"
epsilon = 50.0
delta = 1e-3
population = 171
clipping_norm = 1.0
noise = "shares"
sampling_rate = 0.5
"""


class Federation:
    """A server and six devices, which hold one task after the other."""

    def __init__(self, folder: Path) -> None:
        limits = {"calls_per_second": 1000.0, "calls_at_once": 1000}
        self.folder = folder
        self.deployment = Deployment(folder / "server", limits=limits).start()
        self.data = folder / "data"
        files = written(data_of(), self.data)
        self.devices = self.deployment.join(*NAMES)
        self.crowd = Crowd(self.devices, log=folder / "crowd", dataset="rows", data=files)
        self.files = dict(zip(NAMES, files, strict=True))

    def task(self, name: str, **terms: object) -> Task:
        """A task whose file lies in the folder."""
        self.path(name).write_text(task_text(name, **terms))  # type: ignore[arg-type]
        return Task.from_toml(self.path(name)).resolved()

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def held(self, task: Task) -> str:
        """The id of a task that devices have held to its end."""
        task_id = self.deployment.admin.submit(task)
        self.crowd.run()
        self.completed(task_id)
        self.crowd.end()  # a crowd waits for more tasks, and nobody else may be its devices then
        return task_id

    def completed(self, task_id: str) -> None:
        entry = self.deployment.admin.wait(task_id)
        assert entry.state == "COMPLETED", (entry.reason, self.deployment.server.complaints)

    def models(self, task: Task, task_id: str) -> list[str]:
        """The digest of the model after each round, as a simulation states it."""
        found = []
        for model in self.deployment.admin.models(task_id)[1:]:
            (path,) = (self.deployment.state / "blobs").rglob(model.digest.hex())
            with path.open("rb") as file:
                found.append(digest_of(read_model(file, parameters_of(task)).vector))
        return found

    def scenario(self, task: Task, mode: str, more: str = "") -> Scenario:
        text = scenario_text(
            task.name, task=self.path(task.name), data=self.data, mode=mode, more=more
        )
        return Scenario.from_toml(text)

    def simulated(self, scenario: Scenario) -> tuple[list[str], Result, Path]:
        """The digest of the model after each round of a simulation, what it ended with, where."""
        with RunFolder.create(self.folder / "runs", plan_of(scenario)) as folder:
            result = simulate_in_folder(scenario, folder)
            return [record.model for record in folder.rounds], result, folder.path

    def close(self) -> None:
        self.crowd.end()
        self.deployment.close()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("federation"))
    yield made
    made.close()


@pytest.mark.parametrize(
    "kind",
    [pytest.param(name, marks=pytest.mark.slow) for name in KINDS],  # in processes
)
def test_a_task_finds_over_grpc_what_it_finds_simulated(federation: Federation, kind: str) -> None:
    terms = KINDS[kind]
    task = federation.task(kind.split(",")[0].replace(" ", "-"), **terms)
    deployed = federation.models(task, federation.held(task))
    assert len(set(deployed)) == task.rounds.count
    for mode in ("fast",) if terms.get("profile") == "off" else ("exact", "fast"):
        found, result, _ = federation.simulated(federation.scenario(task, mode))
        assert found == deployed, mode
        assert result.run.task_digest == task.digest.hex() and result.model == deployed[-1]


@pytest.mark.slow
def test_a_device_that_is_lost_in_every_round_is_missed_on_both_sides(
    federation: Federation,
) -> None:
    task = federation.task("losing", **KINDS["fedavg"], goal=len(NAMES) - 1)
    scenario = federation.scenario(
        task,
        "exact",
        """
        [[devices.classes]]
        name = "steady"
        share = 0.7
        [[devices.classes]]
        name = "lost"
        share = 0.3
        dropout = { upload = 1.0 }
        """,
    )
    devices = World.of(scenario).devices
    (lost,) = [place for place in range(len(NAMES)) if devices[place].kind == "lost"]
    device, others = federation.devices[lost], [*federation.devices]
    others.remove(device)
    crowd = Crowd(
        others,
        log=federation.folder / "others",
        dataset="rows",
        data=[federation.files[other.name] for other in others],
    )

    def start(failpoints: str):  # type: ignore[no-untyped-def]
        return device.run("--data", f"rows={federation.files[device.name]}", failpoints=failpoints)

    task_id = federation.deployment.admin.submit(task)
    with ExitStack() as stack:
        stack.callback(device.end)
        stack.callback(crowd.end)
        device.forget_pause()
        crowd.run()
        supervisor = stack.enter_context(Supervisor(start, ["client.before_upload=kill"] * 1000))
        federation.completed(task_id)
    assert len(supervisor.killed) >= task.rounds.count
    rounds = federation.deployment.admin.rounds(task_id)
    assert [(entry.selected, entry.reported) for entry in rounds] == [(6, 5)] * 3
    deployed = federation.models(task, task_id)
    found, result, _ = federation.simulated(scenario)
    assert found == deployed and result.totals.lost == {"collecting": 3}
    everybody, _, _ = federation.simulated(federation.scenario(task, "fast"))
    assert everybody != deployed


@pytest.mark.slow
def test_what_privacy_costs_is_the_same_though_its_noise_is_not(federation: Federation) -> None:
    terms = {"algorithm": 'name = "fedsgd"\nlr = 0.5', "training": "", "more": RECORDS}
    task = federation.task("private", **terms)
    task_id = federation.held(task)
    ledgers = [verify(federation.deployment.state / "ledgers" / task_id)]
    models = [federation.models(task, task_id)]
    for mode in ("exact", "fast"):
        found, result, folder = federation.simulated(federation.scenario(task, mode))
        models.append(found)
        ledgers.append(verify(folder / "ledgers" / task.name))
        assert result.privacy is not None
        assert result.privacy.epsilon == ledgers[0].epsilon
    counts = {(one.epsilon, one.delta, one.reservations, one.released) for one in ledgers}
    assert len(counts) == 1 and ledgers[0].released == task.rounds.count
    assert len({one for found in models for one in found}) == 3 * task.rounds.count


def fed(*words: object) -> Any:
    """What a command says."""
    done = subprocess.run(
        [FED, *map(str, words), "--format", "json"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


SCENARIO = """
[scenario]
name = "simulated-first"
mode = "exact"
[population]
clients = 5
source = { name = "synthetic", rows = 400, shape = [40], classes = 3, test_rows = 60 }
partition = { name = "dirichlet", alpha = 0.3, minimum = 8 }
shift = { name = "sensor_gain", scale = 0.2 }
[task]
name = "simulated-first"
seed = 5
[model]
[[model.layers]]
kind = "linear"
inputs = 40
outputs = 64
[[model.layers]]
kind = "relu"
[[model.layers]]
kind = "linear"
inputs = 64
outputs = 3
[data]
dataset = "rows"
[training]
loss = "cross_entropy"
epochs = 2
batch_size = 16
optimizer = { name = "sgd", lr = 0.1 }
[algorithm]
name = "fedadam"
[secure_aggregation]
profile = "malicious"
delta = 0.2
gamma = 0.1
[rounds]
count = 2
[cohort]
goal = 5
minimum = 5
"""


@pytest.mark.slow
def test_commands_alone_lead_from_a_simulation_to_the_same_model_over_grpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenBLAS takes some processors for older ones. Whoever trains has to choose the same kernels.
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.chdir(tmp_path)
    Path("first.toml").write_text(SCENARIO)
    runs = [
        fed("sim", "run", "first.toml", "--workers", workers, "--kind", kind, "--out", "runs")
        for workers, kind in ((1, "threads"), (2, "threads"), (2, "processes"))
    ]
    fed("sim", "export", "first.toml", "--out", "task.toml", "--data", "devices")
    files = sorted((tmp_path / "devices").iterdir())
    assert [file.stem for file in files] == [f"client-{place}" for place in range(5)]
    limits = {"calls_per_second": 100.0, "calls_at_once": 100}
    with Deployment(tmp_path / "server", limits=limits) as deployment:
        profile = ("--profile", deployment.start().admin.folder)
        string = fed("token", "create", "--uses", 5, *profile)["join_string"]
        devices = [deployment.keep(Device(tmp_path / "members" / file.stem)) for file in files]
        for device, file in zip(devices, files, strict=True):
            fed("client", "join", string, "--name", file.stem, "--directory", device.folder)
            device.run("--data", f"rows={file}")
        task_id = fed("task", "submit", "task.toml", *profile)["task_id"]
        deployment.admin.wait(task_id)
        fed("model", "export", task_id, "--out", "deployed.safetensors", *profile)
    task = Task.from_toml(Path("task.toml")).resolved()
    with Path("deployed.safetensors").open("rb") as model:
        digest = digest_of(read_model(model, parameters_of(task)).vector)
    assert {run["model"] for run in runs} == {digest}
    simulated = Path(runs[0]["folder"]) / "model.safetensors"
    difference = fed("model", "diff", "deployed.safetensors", simulated)
    assert {one["largest"] for one in difference} == {0.0}
