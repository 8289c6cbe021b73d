"""All tasks together stay within the owner's total, whatever is killed, upgraded or asked again."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings, strategies as st

from fedclient import Client, Outcome, Policy
from fedclient.privacy_budget import Guarantee, TaskCost, guarantee_of
from fedclient.state import State
from fedcore.data import Dataset
from fedcore.errors import ClientStateError, DevicePolicyError
from fedcore.federated.task import Task
from fedcore.v1 import common_pb2
from tests.client.devices import Crasher, reopened, run_all
from tests.client.server import FakeServer
from tests.client.test_state import ASSIGNMENT, KEY

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]
PrivateTask = Callable[..., Task]

OPEN = '[secure_aggregation]\nprofile = "off"\n'
VERSION_1 = """
CREATE TABLE record (key TEXT PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE assignment (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL);
CREATE TABLE contribution (assignment BLOB PRIMARY KEY, sealed_key BLOB NOT NULL,
    lengths TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE charge (
    task_digest BLOB NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    task TEXT NOT NULL, at_ms INTEGER NOT NULL, given INTEGER NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL DEFAULT '', bytes_up INTEGER NOT NULL DEFAULT 0,
    bytes_down INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0,
    joules REAL NOT NULL DEFAULT 0, measured INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (task_digest, round, attempt)) WITHOUT ROWID;
CREATE INDEX charge_by_time ON charge (at_ms);
PRAGMA user_version=1;
"""


def totals(**limits: float) -> Policy:
    lines = [f"total_{name} = {limit}" for name, limit in limits.items()]
    return Policy.parse("\n".join([OPEN, "[privacy]", *lines]))


def cost(epsilon: float, delta: float = 0.0, *, digest: bytes = b"o" * 32) -> TaskCost:
    return TaskCost("other", digest, 1, Guarantee(epsilon, delta))


UPDATES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 3), st.booleans()), max_size=12
)


@pytest.mark.slow
@given(UPDATES, st.lists(st.none() | st.floats(0.1, 8.0), min_size=4, max_size=4))
@settings(max_examples=15)
def test_each_task_counts_once_for_every_run_that_left_and_for_ever(
    updates: list[tuple[int, int, int, bool]], epsilons: list[float | None]
) -> None:
    with TemporaryDirectory() as name:
        left: set[tuple[int, int, int]] = set()
        for task, round, attempt, gives in updates:
            place = replace(
                ASSIGNMENT,
                task_digest=bytes([task]) * 32,
                task_id=f"t{task}",
                round=round,
                attempt=attempt,
            )
            with closing(State(Path(name), key=KEY)) as state:
                state.answered(assignment=place)
                if gives:
                    epsilon = epsilons[task]
                    promise = None if epsilon is None else Guarantee(epsilon, 1e-6)
                    state.give(place, guarantee=promise)
                    left.add((task, round, attempt))
                state.finish(place, Outcome.ABANDONED)
        with closing(State(Path(name), key=KEY)) as state:
            found = {found.task: found for found in state.privacy_costs()}
    assert set(found) == {f"t{task}" for task, _, _ in left}
    for task in {task for task, _, _ in left}:
        epsilon, one = epsilons[task], found[f"t{task}"]
        runs = max(Counter(round for other, round, _ in left if other == task).values())
        assert one.times == runs
        assert one.spent.epsilon == (math.inf if epsilon is None else runs * epsilon)


@given(
    st.lists(st.floats(0.01, 5.0), max_size=5),
    st.floats(0.01, 20.0),
    st.integers(1, 3),
)
def test_a_task_is_refused_exactly_if_the_sum_with_it_is_above_the_total(
    private_task_of: Task, spent: list[float], limit: float, times: int
) -> None:
    task, others = (
        private_task_of,
        [cost(epsilon, digest=bytes([i]) * 32) for i, epsilon in enumerate(spent)],
    )
    own = TaskCost("tiny", task.digest, 1, guarantee_of(task))
    asked = math.fsum([*spent, times * 2.0])
    for before in (others, [*others, own]):  # it counts once, before and after its first vector
        try:
            totals(epsilon=limit).check_total(task, times=times, spent=before)
        except DevicePolicyError as error:
            assert asked > limit and error.where == "privacy.total_epsilon"
            left = max(0.0, limit - math.fsum(spent))
            assert error.why.endswith(f"for all tasks, of which others leave {left:.4g}")
            assert f"epsilon = {2.0 * times:.4g} in all for this task" in error.what
        else:
            assert asked <= limit


@pytest.fixture(scope="module")
def private_task_of(private_task: PrivateTask) -> Task:
    return private_task("tiny")


def test_delta_has_a_total_of_its_own(private_task_of: Task) -> None:
    spent = [cost(1.0, 1e-4)]
    totals(delta=2e-4).check_total(private_task_of, times=1, spent=spent)
    with pytest.raises(DevicePolicyError) as caught:
        totals(delta=1.9e-4).check_total(private_task_of, times=1, spent=spent)
    assert caught.value.where == "privacy.total_delta" and "others leave 9e-05" in caught.value.why


@pytest.mark.parametrize("policy", [totals(epsilon=100.0), totals(delta=0.5)])
def test_where_a_total_is_set_nothing_without_a_known_guarantee_is_taken(
    policy: Policy, private_task_of: Task, open_task: Task
) -> None:
    with pytest.raises(DevicePolicyError) as caught:
        policy.check_total(open_task, times=1, spent=[])
    assert caught.value.where == "privacy.required"
    unknown = TaskCost("t7", b"u" * 32, 1, None)
    with pytest.raises(DevicePolicyError, match="unknown") as caught:
        policy.check_total(private_task_of, times=1, spent=[unknown])
    assert "t7" in caught.value.why
    for task in (open_task, private_task_of):
        Policy().check_total(task, times=1, spent=[unknown])


def filled_version_1(folder: Path, *, digest: bytes) -> None:
    """The state of a client of the first release, in the middle of a round."""
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "state.db")) as database, database:
        database.executescript(VERSION_1)
        insert = "INSERT INTO charge VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        rows = [
            (b"e" * 32, 0, 1, "t1", 1000, 1, "completed", 10, 20, 1.5, 3.0, 1),
            (digest, 0, 1, "t2", 2000, 1, "abandoned", 11, 21, 0.5, 0.0, 0),
            (digest, 1, 1, "t2", 3000, 0, "", 0, 5, 0.0, 0.0, 0),
        ]
        database.executemany(insert, rows)
        open_one = replace(ASSIGNMENT, task_digest=digest, task_id="t2", round=1)
        database.execute("INSERT INTO assignment VALUES (1, ?)", (open_one.encode(),))
        database.execute("INSERT INTO setting VALUES ('request_id', ?)", (b"r" * 16,))


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_a_state_of_version_1_keeps_all_it_knew_and_what_it_gave_counts_without_bound(
    tmp_path: Path, private_task_of: Task, first: str
) -> None:
    task = private_task_of
    filled_version_1(tmp_path, digest=task.digest)
    with closing(State(tmp_path, key=KEY, read_only=first == "reader")) as state:
        assert [charge.task for charge in state.charges()] == ["t2", "t2", "t1"]
    with closing(State(tmp_path, key=KEY)) as state:
        old = state.charges()[-1]
        assert (old.outcome, old.bytes_up, old.bytes_down) == ("completed", 10, 20)
        assert old.seconds == 1.5 and old.energy.measured and old.given and not old.warning
        assert state.request_id() == b"r" * 16
        assignment = state.assignment
        assert assignment is not None and assignment.round == 1
        assert [found.guarantee for found in state.privacy_costs()] == [None, None]
        with pytest.raises(DevicePolicyError, match="unknown"):
            totals(epsilon=1e9).check_total(task, times=1, spent=state.privacy_costs())
        # What a digest stands for never changes: the next vector tells what the first has cost.
        state.give(assignment, guarantee=guarantee_of(task))
        known = {found.task: found.spent.epsilon for found in state.privacy_costs()}
        assert known == {"t1": math.inf, "t2": 2.0}
    with closing(sqlite3.connect(tmp_path / "state.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (3,)


def test_an_upgrade_happens_in_one_step_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fedclient.database as module

    filled_version_1(tmp_path, digest=b"d" * 32)
    broken = (*module._STEPS[:1], f"{module._STEPS[1]}; CREATE TABLE charge (again)")
    monkeypatch.setattr(module, "_STEPS", broken)
    with pytest.raises(ClientStateError):
        State(tmp_path, key=KEY)
    monkeypatch.undo()
    with closing(State(tmp_path, key=KEY)) as state:
        assert len(state.charges()) == 3 and len(state.privacy_costs()) == 2


def test_a_second_task_that_is_above_the_total_is_refused_before_its_model_is_fetched(
    serve: Serve, private_task: PrivateTask, flowers: Flowers, folder: Path
) -> None:
    server = serve(private_task("first"), goal=1)
    server.retry_ms = (1, 5)
    policy = totals(epsilon=3.5)
    with Client.join(server.join_string, directory=folder) as device:
        [[first]] = run_all([device], flowers, policy=policy)
        server.next_round()
        [[again]] = run_all([device], flowers, policy=policy)
        assert (first.outcome, again.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)
        fetched, begun = server.calls["GetChunk"], server.calls["Begin"]
        server.task = private_task("second")
        server.next_round()
        [[second]] = run_all([device], flowers, policy=policy)
        assert [found.spent for found in device.privacy_costs()] == [Guarantee(2.0, 1e-4)]
    assert second.outcome is Outcome.REFUSED and "privacy.total_epsilon" in second.reason
    assert "others leave 1.5" in second.reason
    assert (server.calls["GetChunk"], server.calls["Begin"]) == (fetched, begun)
    [seat] = server.present()
    assert seat.report is not None
    assert seat.report.failure == common_pb2.FAILURE_CODE_POLICY_REFUSED


def test_nothing_is_paid_for_a_model_of_which_nothing_can_come(
    serve: Serve, private_task: PrivateTask, flowers: Flowers, folder: Path
) -> None:
    server = serve(private_task("first"), goal=1)
    server.theta[1] = math.nan
    server.next_round()
    with Client.join(server.join_string, directory=folder) as device:
        [[summary]] = run_all([device], flowers, policy=totals(epsilon=3.5))
        assert device.privacy_costs() == []
    assert summary.outcome is Outcome.FAILED and "NaN or infinite" in summary.reason
    assert server.calls["Begin"] == 0


def test_a_task_is_charged_durably_before_its_first_byte_leaves_and_never_refunded(
    serve: Serve,
    private_task: PrivateTask,
    flowers: Flowers,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(private_task("first"), goal=1)
    device = Client.join(server.join_string, directory=folder)
    key, seen = device._identity.device_key, []

    def look(method: str, client: bytes) -> None:
        if method in ("GetChunk", "Begin"):
            with closing(State(folder, key=key, read_only=True)) as state:
                seen.append((method, [found.spent.epsilon for found in state.privacy_costs()]))

    server.before = look
    Crasher("client.before_upload").install(monkeypatch)
    # The attempt goes on after the crash, though the owner's total is used up by itself.
    [[summary]] = run_all([device], flowers, policy=totals(epsilon=2.0), restart=reopened)
    assert summary.outcome is Outcome.COMPLETED
    assert seen == [("GetChunk", []), ("Begin", [2.0])]
    device.close()


def test_the_total_is_asked_again_when_a_vector_is_about_to_leave(
    serve: Serve, private_task: PrivateTask, flowers: Flowers, folder: Path
) -> None:
    server = serve(private_task("first"), goal=1)
    other = replace(ASSIGNMENT, task_digest=b"o" * 32, task_id="t9")
    with Client.join(server.join_string, directory=folder) as device:
        state = device._state

        def spend_meanwhile(method: str, client: bytes) -> None:
            if method == "GetChunk" and not state.privacy_costs():
                state._database.write(
                    "INSERT INTO charge (task_digest, round, attempt, task, at_ms, given)"
                    " VALUES (?, 0, 1, 't9', 0, 0)",
                    other.task_digest,
                )
                state.give(replace(other, round=0), guarantee=Guarantee(1.0, 0.0))

        server.before = spend_meanwhile
        [[summary]] = run_all([device], flowers, policy=totals(epsilon=2.5))
    assert summary.outcome is Outcome.REFUSED and "privacy.total_epsilon" in summary.reason
    assert server.calls["GetChunk"] == 1 and server.calls["Begin"] == 0


def test_a_second_attempt_at_a_round_costs_a_second_run(
    serve: Serve, private_task: PrivateTask, flowers: Flowers, folder: Path
) -> None:
    server = serve(private_task("first"), goal=1)
    server.retry_ms = (1, 5)

    def policy(epsilon: float) -> Policy:
        allowed = totals(epsilon=epsilon)
        rules = replace(allowed.secure_aggregation, attempts=2)
        return replace(allowed, secure_aggregation=rules)

    with Client.join(server.join_string, directory=folder) as device:
        run_all([device], flowers, policy=policy(3.9))
        server.next_round(attempt=True)
        [[refused]] = run_all([device], flowers, policy=policy(3.9))
        server.next_round(attempt=True)
        [[given_again]] = run_all([device], flowers, policy=policy(4.0))
        [spent] = device.privacy_costs()
    assert refused.outcome is Outcome.REFUSED and given_again.outcome is Outcome.COMPLETED
    assert spent.times == 2 and spent.spent.epsilon == 4.0
