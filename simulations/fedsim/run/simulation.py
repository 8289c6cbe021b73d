"""A simulation from its scenario to its last round, which a kill at any moment only interrupts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Final, NamedTuple

from fedcore.console import Json
from fedcore.entropy import Entropy, SystemEntropy
from fedcore.errors import BudgetError, DataFormatError
from fedcore.federated.parameters import parameters_of
from fedcore.federated.payments import Account, Accounts
from fedcore.privacy import Head, PrivacyPlan, Uncontrolled
from fedsim.clock import ClockState
from fedsim.engine import Engine, Plan, WayName
from fedsim.engine.processes import Starting
from fedsim.modes import Done, Rounds, State, TaskRounds, Vector
from fedsim.modes.buffered import BufferedRounds
from fedsim.modes.exact import ExactSums
from fedsim.modes.foreseen import require_possible
from fedsim.modes.releases import Releases, announced_head
from fedsim.modes.studies import StudyRounds, study_plan
from fedsim.records import (
    Evaluation,
    Mode,
    OwnRows,
    Privacy,
    Result,
    RoundRecord,
    Speed,
    Spread,
    digest_of,
)
from fedsim.records.durable import disk, write_atomically
from fedsim.run.folder import RunFolder, RunPlan
from fedsim.run.reading import SavedState, whole_state
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["plan_of", "say_nothing", "simulate_in_folder", "workers_to_come"]

_CLOCK: Final = "clock"
_LEDGER: Final = "ledger-head"
_LEDGERS: Final = "ledgers"
_KEY_FILE: Final = "participation.key"
_KEY_BYTES: Final = 32


def say_nothing(record: RoundRecord) -> None:
    """What nobody follows."""


def plan_of(scenario: Scenario) -> RunPlan:
    """What the folder of a scenario's run says of it."""
    task: dict[str, Json] = json.loads(scenario.task.canonical)
    return RunPlan(
        name=scenario.head.name,
        text=scenario.text,
        scenario=scenario.document,
        scenario_digest=scenario.digest.hex(),
        task=task,
        task_digest=scenario.task.digest.hex(),
        seeds={"task": scenario.task.seed},
        mode=scenario.mode,
        private=scenario.task.privacy is not None,
    )


def workers_to_come(scenario: Scenario) -> Starting:
    """The processes of a run, if it has any: they begin to import while its data are read.

    To be closed by whoever asked for them. A start with two of them took 2.1 s, and takes 1.7.
    """
    count = _workers(scenario)
    return Starting(count if scenario.engine.kind == "processes" and count > 1 else 0)


def simulate_in_folder(
    scenario: Scenario,
    folder: RunFolder,
    *,
    world: World | None = None,
    programs: Mapping[str, str] | None = None,
    starting: Starting | None = None,
    entropy: Entropy | None = None,
    on_round: Callable[[RoundRecord], None] = say_nothing,
) -> Result:
    """Runs a scenario to its end, or takes it up where its folder says that it stood.

    `world`: loaded before; else from the scenario's source. `programs`: by name, where in an
    installed module they are. `starting`: of `workers_to_come`. `entropy`: a seam for tests.
    Raises: what the scenario, its data and its clients make impossible; RoundOverError for a round
    that was given up; BudgetError if not even the first is paid for. What was finished stays in
    the folder.
    """
    if folder.result is not None:
        return folder.result
    world = World.of(scenario) if world is None else world
    require_possible(scenario, world)
    with ExitStack() as stack:
        account = _account(scenario, folder, entropy, stack)
        engine = stack.enter_context(
            _engine(scenario, world, folder, programs or {}, starting, entropy)
        )
        releases = None if account is None else Releases(account, folder.path)
        rounds = _rounds(scenario, world, engine, releases, entropy)
        run = _Run(scenario, folder, world, engine, rounds, account, on_round)
        ended = run.run()
        return folder.finish(ended=ended, privacy=run.privacy())


class _Measured(NamedTuple):
    """How good a round's model is, where it was due to be measured: see `RoundRecord`."""

    test: Evaluation | None
    clients: Spread | None = None
    personal: Mapping[str, float] = MappingProxyType({})
    own_rows: OwnRows | None = None


class _Run:
    """One run of a scenario, in its folder."""

    def __init__(
        self,
        scenario: Scenario,
        folder: RunFolder,
        world: World,
        engine: Engine,
        rounds: Rounds,
        account: Account | None,
        on_round: Callable[[RoundRecord], None],
    ) -> None:
        self._scenario, self._folder, self._world = scenario, folder, world
        self._engine, self._rounds = engine, rounds
        self._account, self._on_round = account, on_round

    def run(self) -> str:
        """Goes on to the last round; why it ended, in words."""
        saved = self._folder.state
        state = self._rounds.start() if saved is None else _restored(self._folder, saved)
        done, count = 0 if saved is None else saved.rounds, self._scenario.task.rounds.count
        ended = f"all {count} rounds are over"
        self._rounds.begin(done)
        for number in range(done, count):
            begun = time.perf_counter()
            try:
                found = self._rounds.round(number, state)
            except BudgetError as error:
                if number == 0:
                    raise
                ended = f"{error.code} {error.what}"
                break
            finally:
                self._engine.settle()  # whatever came of this round, the one before it counts
            state, wall_s = found.state, time.perf_counter() - begun
            # Workers measure, so this is not left for when they are busy.
            measured = self._measured(number, state.theta)
            keep = partial(self._keep, number, found, wall_s, measured)
            # What was paid for is durable before anything else begins.
            keep() if self._account is not None else self._engine.meanwhile(keep)
        self._engine.settle()
        self._folder.write_model(state.theta, parameters_of(self._scenario.task))
        return ended

    def _keep(self, number: int, done: Done, wall_s: float, measured: _Measured) -> None:
        """Writes a round down, and tells who follows."""
        record = self._record(number, done, wall_s, measured)
        saved = self._saved(number, done.state)
        self._folder.append(record, saved)
        if saved is not None:
            self._rounds.kept(number)
        self._on_round(record)

    def _record(self, number: int, done: Done, wall_s: float, measured: _Measured) -> RoundRecord:
        passed = done.passed
        private = self._scenario.task.privacy is not None
        trained = sum(not report.failure for report in done.reports)
        return RoundRecord(
            round=number,
            attempts=passed.attempts,
            mode=self._scenario.mode,
            model=digest_of(done.state.theta),
            start_s=passed.begin / 1000,
            end_s=passed.end / 1000,
            speed=Speed(wall_s=wall_s, trainings_per_s=trained / max(wall_s, 1e-9)),
            selected=passed.selected,
            reported=passed.reported,
            funnel=passed.funnel,
            lost=passed.lost,
            train_loss=None if private else done.loss,
            test=measured.test,
            clients=measured.clients,
            personal=measured.personal,
            own_rows=measured.own_rows,
            privacy=self.privacy(),
            bytes_down=passed.bytes_down,
            bytes_up=passed.bytes_up,
        )

    def _tested(self, number: int, theta: Vector) -> Evaluation | None:
        test = self._world.source.test
        if test is None or not self._is_due(number, self._scenario.head.evaluate_every):
            return None
        sums = self._engine.measure(theta, test)
        examples = sums.pop("evaluation_examples")
        means = {name.removeprefix("evaluation_"): value / examples for name, value in sums.items()}
        return Evaluation(
            loss=means.pop("loss"), accuracy=means.pop("accuracy", None), metrics=means
        )

    def _measured(self, number: int, theta: Vector) -> _Measured:
        test, people = self._tested(number, theta), self._world.population
        if not self._is_due(number, self._scenario.head.evaluate_clients_every):
            return _Measured(test)
        reports = self._engine.measure_clients(people.measured.tolist(), theta)
        names = ("accuracy", "loss")
        found = {
            name: [
                report.measured[f"evaluation_{name}"] / report.measured["evaluation_examples"]
                for report in reports
                if f"evaluation_{name}" in report.measured
            ]
            for name in names
        }
        spread = Spread.of(found["accuracy"]) if found["accuracy"] else None
        means = {name: fmean(values) for name, values in found.items() if values}
        if not means:
            return _Measured(test)
        personal = {} if self._scenario.study.algorithm is None else means
        return _Measured(test, spread, personal, people.own_rows)

    def _is_due(self, number: int, every: int) -> bool:
        last = number + 1 == self._scenario.task.rounds.count
        return bool(every) and ((number + 1) % every == 0 or last)

    def privacy(self) -> Privacy | None:
        """What was spent, also on what was never released; None where nobody is promised any."""
        if self._account is None:
            return None
        ledger = self._account.ledger
        plan = ledger.plan
        return Privacy(
            epsilon=float(ledger.epsilon()),
            budget=float(plan.epsilon),
            delta=float(plan.delta or 0.0),
        )

    def _saved(self, number: int, state: State) -> SavedState | None:
        done, every = number + 1, self._scenario.head.checkpoint_every
        if done % every and done != self._scenario.task.rounds.count and self._account is None:
            return None
        texts = {_CLOCK: json.dumps(state.clock.to_record()), **state.texts}
        if self._account is not None:
            texts[_LEDGER] = json.dumps(self._account.ledger.head.to_json())
        return SavedState(rounds=done, theta=state.theta, arrays=state.arrays, texts=texts)


def _restored(folder: RunFolder, saved: SavedState) -> State:
    texts = dict(saved.texts)
    with whole_state(folder.path, folder.run):
        clock = ClockState.from_record(json.loads(texts.pop(_CLOCK)))
    texts.pop(_LEDGER, None)
    return State(saved.theta, saved.arrays, clock, texts)


def _rounds(
    scenario: Scenario,
    world: World,
    engine: Engine,
    releases: Releases | None,
    entropy: Entropy | None,
) -> Rounds:
    """Rounds of the kind that the scenario is of."""
    if scenario.clock.schedule == "buffered":
        return BufferedRounds(scenario, world, engine)
    if scenario.study.any:
        return StudyRounds(scenario, world, engine)
    exact = None
    if scenario.mode is Mode.EXACT:
        names, threads = world.population.names, _workers(scenario)
        exact = ExactSums(scenario.task, names, engine, threads=threads, entropy=entropy)
    return TaskRounds(scenario, world, engine, releases=releases, exact=exact)


def _engine(
    scenario: Scenario,
    world: World,
    folder: RunFolder,
    programs: Mapping[str, str],
    starting: Starting | None,
    entropy: Entropy | None,
) -> Engine:
    terms, task = scenario.engine, scenario.task
    unmasked = task.plan is None and scenario.mode is Mode.FAST
    way: WayName = "grid" if unmasked else "words"
    if scenario.mode is Mode.PLAIN:
        way = "floats"
    study = study_plan(scenario, folder.client_state) if scenario.study.any else None
    plan = Plan(task=task, way=way, lanes=terms.lanes, programs=programs, study=study)
    kind = "threads" if entropy is not None else terms.kind
    workers = _workers(scenario)
    return Engine(
        plan,
        world.population,
        workers=workers,
        kind=kind,
        address=terms.address,
        starting=starting,
        entropy=entropy,
    )


def _workers(scenario: Scenario) -> int:
    """One a core, where nobody says otherwise; more than clients in a round would wait."""
    most = min(os.cpu_count() or 1, scenario.task.cohort.select)
    return scenario.engine.workers or most


def _account(
    scenario: Scenario, folder: RunFolder, entropy: Entropy | None, stack: ExitStack
) -> Account | None:
    """The ledger of a run with privacy: a new one, or the one that the run's folder knows."""
    plan = scenario.task.plan
    if plan is None:
        return None
    key = _participation_key(folder.path, plan)
    accounts = Accounts(folder.path / _LEDGERS, participation_key=key, entropy=entropy)
    stack.callback(accounts.close)
    heads = [head for head in (_checkpoint_head(folder), announced_head(folder.path)) if head]
    if not heads and not folder.began:
        return accounts.create(scenario.task.name, plan)
    # Whatever is lost besides, a ledger that once was there is never begun anew.
    head = max(heads, key=lambda one: one.seq, default=None)
    return accounts.open(scenario.task.name, plan, checkpoint=head)


def _checkpoint_head(folder: RunFolder) -> Head | None:
    if folder.state is None:
        return None
    with whole_state(folder.path, folder.run):
        return Head.from_json(json.loads(folder.state.texts[_LEDGER]))


def _participation_key(folder: Path, plan: PrivacyPlan) -> bytes:
    """What names in the ledger are hidden under, made at the first start.

    Raises: DataFormatError where the ledger keeps names, and it is damaged or lost.
    """
    path = folder / _KEY_FILE
    keeps_names = isinstance(plan.sampling, Uncontrolled)
    with disk(folder):
        if not path.exists() and not (keeps_names and (folder / _LEDGERS).exists()):
            write_atomically(path, [SystemEntropy().token(_KEY_BYTES)], mode=0o600)
        found = path.read_bytes() if path.exists() else b""
    if len(found) == _KEY_BYTES or not keeps_names:
        return found
    raise DataFormatError(
        f"{_KEY_FILE} of the run {folder.name} has {len(found)} bytes, and not {_KEY_BYTES}",
        where=str(path),
        why="under it the ledger keeps who took part, and no other key reads that",
        fix=f"restore {_KEY_FILE} from a copy, or begin a new run",
    )
