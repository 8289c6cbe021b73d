"""Any sequence of acts, crashes and restarts leaves the store as its plain model says (W1-W12).

Every act is done to both. Both refuse it with the same error, or both do it; then all that can be
seen of them is equal: what was acknowledged stays, each task has one line of models and one head,
the audit is one chain, counts are sums, a lease that was lost opens nothing, and what was asked
twice happened once.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fedcore.errors import FedcoreError
from fedserver.store.records import (
    RESTORED,
    AssignmentState,
    AuditEntry,
    Idempotency,
    Lease,
    ModelRecord,
    OutboxMessage,
    RoundRef,
    TaskState,
    TokenRecord,
    Transition,
)
from fedserver.store.sqlite import SqliteStore
from tests.server.databases import empty_database
from tests.server.store.conftest import (
    KEY,
    FakeClock,
    SqliteGround,
    World,
    assignment,
    digest,
)
from tests.server.store.plain_store import PlainRound, PlainStore, observed

TASKS = ("task-1", "task-2")
TTL_MS = 1000
NEXT = {"SELECTING": "COLLECTING", "COLLECTING": "AGGREGATING", "AGGREGATING": "RELEASING"}
small = st.integers(0, 3)
tasks = st.sampled_from(TASKS)
# Most often the newest, sometimes one of long ago, or one that never was.
stale = st.sampled_from([0, 0, 0, 0, 0, 1, 2])


def entry(action: str) -> AuditEntry:
    return AuditEntry("user:ada", action, "it")


def once(number: int, content: int) -> Idempotency:
    name = digest(f"request {number}")
    return Idempotency("user:ada", "CreateToken", name[:16], digest(f"{content}"), name)


class StoreMachine(RuleBasedStateMachine):
    """A store, its model, and every lease that was ever given."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.lives = 0
        self.clock = FakeClock()
        self.plain = PlainStore(self.clock.now)
        self.leases: dict[str, list[Lease]] = {task: [] for task in TASKS}
        self.drawn = 4  # the next request of a client

    @initialize()
    def begin(self) -> None:
        (self.folder / "0").mkdir()
        (self.folder / "0" / "server.db").write_bytes(empty_database())
        self.store = self.run(self.opened())
        for number in range(4):
            self.create_token(number, number, uses=number + 1)
        for task_id in TASKS:
            self.add_task(task_id)
            self.acquire_lease(task_id, "one")

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    # Who may speak, and what is asked twice.

    @rule(number=small, content=small, uses=small)
    def create_token(self, number: int, content: int, uses: int) -> None:
        token = TokenRecord(digest(f"token {number}"), "acme", uses + 1, self.clock.now + 50_000)
        key = once(number, content)
        self.both("create_token", token, audit=entry("token"), idempotency=key)

    @rule(token=small, number=small)
    def enrol(self, token: int, number: int) -> None:
        world = World(self.store, self.clock, SqliteGround(self.folder))
        client, certificate = world.applicant(2 * number)
        if client.client_id in self.plain.clients and token % 2:
            token = 0  # the first one again, more often than not
        name = digest(f"token {token}")
        key = digest(f"key {number}")
        self.both("enrol", name, client, certificate, key_hash=key, reply=b"", audit=entry("enrol"))

    # Tasks, and who drives them.

    @rule(task_id=tasks)
    def add_task(self, task_id: str) -> None:
        world = World(self.store, self.clock, SqliteGround(self.folder))
        self.both("add_task", *world.new_task(task_id), audit=entry("task"))

    @precondition(lambda self: self.plain.now_ms > 1_020_000)  # late, or nothing happens any more
    @rule(task_id=tasks, state=st.sampled_from(TaskState))
    def set_task_state(self, task_id: str, state: TaskState) -> None:
        self.both("set_task_state", task_id, state, audit=entry(f"task.{state.value}"))

    @rule(task_id=tasks, owner=st.sampled_from(["one", "one", "two"]))
    def acquire_lease(self, task_id: str, owner: str) -> None:
        lease = self.both("acquire_lease", task_id, owner, TTL_MS)
        if lease is not None:
            holder, token, expires_ms = self.plain.leases[task_id]
            assert (lease.owner, lease.token, lease.expires_ms) == (holder, token, expires_ms)
            assert all(earlier.token < lease.token for earlier in self.leases[task_id])
            self.leases[task_id].append(lease)

    @rule(task_id=tasks, age=stale)
    def renew_lease(self, task_id: str, age: int) -> None:
        self.both("renew_lease", self.lease(task_id, age), TTL_MS)

    @rule(task_id=tasks, age=stale)
    def release_lease(self, task_id: str, age: int) -> None:
        self.both("release_lease", self.lease(task_id, age))

    @rule(ms=st.sampled_from([1, TTL_MS // 2, 2 * TTL_MS, 20 * TTL_MS]))
    def pass_time(self, ms: int) -> None:
        self.clock.now += ms
        self.plain.now_ms = self.clock.now

    # Rounds.

    @rule(task_id=tasks, age=stale, again=st.booleans())
    def open_round(self, task_id: str, age: int, again: bool) -> None:
        ref = self.newest(task_id)
        number = len(self.plain.lines[task_id]) - 1
        if not (again and ref is not None):
            ref = RoundRef(task_id, number, 1 + sum(r.round == number for r in self.of(task_id)))
        self.both(
            "open_round",
            ref,
            phase="SELECTING",
            state={},
            base_model=self.plain.lines[task_id][ref.round if ref.round <= number else -1],
            deadline_ms=self.clock.now,
            lease_token=self.lease(task_id, age).token,
            audit=entry("open"),
        )

    @rule(task_id=tasks, age=stale, behind=stale, clients=st.sets(small), abandon=stale)
    def advance_round(
        self, task_id: str, age: int, behind: int, clients: set[int], abandon: int
    ) -> None:
        ref = self.newest(task_id)
        if ref is None or self.phase(ref) == "COMPLETED":  # of which no round is abandoned
            return
        found = self.plain.rounds[ref]
        to_phase = "ABANDONED" if abandon > 1 else NEXT.get(found.phase, "ABANDONED")
        options: dict[str, Any] = {"outbox": (OutboxMessage(to_phase, str(ref).encode()),)}
        if to_phase == "ABANDONED":
            options["end_assignments"] = AssignmentState.CANCELLED
        if to_phase == "COLLECTING":
            options["session"] = {"roster": str(sorted(clients)).encode()}
            options["assignments"] = tuple(
                assignment(ref, client, request_id=request)
                for client, request in sorted(self.plain.asked)
                if int.from_bytes(client, "big") // 2 in clients
                and self.plain.asked[client, request] == [task_id, b""]
            )
        self.both(
            "advance_round",
            ref,
            Transition(found.phase, to_phase, found.sequence + 1 - behind),
            state={},
            lease_token=self.lease(task_id, age).token,
            audit=entry(to_phase),
            **options,
        )

    @rule(task_id=tasks, age=stale, behind=stale, parent=stale)
    def complete_round(self, task_id: str, age: int, behind: int, parent: int) -> None:
        ref = self.newest(task_id)
        if ref is None or self.plain.rounds[ref].phase != "RELEASING":
            return
        found, line = self.plain.rounds[ref], self.plain.lines[task_id]
        base = line[-1 - min(parent, len(line) - 1)]
        self.both(
            "complete_round",
            ref,
            Transition(found.phase, "COMPLETED", found.sequence + 1 - behind),
            state={},
            lease_token=self.lease(task_id, age).token,
            model=ModelRecord(digest(f"{ref} {parent}"), task_id, base, ref.round + 1, 100),
            expected_parent=base,
            metrics={},
            audit=entry("COMPLETED"),
            outbox=(OutboxMessage("released", str(ref).encode()),),
        )

    @rule(task_id=tasks, clients=st.sets(small, min_size=1), steps=st.integers(1, 6))
    def go_on(self, task_id: str, clients: set[int], steps: int) -> None:
        """A round as most are, or a part of it: opened, joined, given to, released, scrubbed."""
        self.acquire_lease(task_id, "one")
        for _ in range(steps):
            ref = self.newest(task_id)
            phase = "" if ref is None else self.phase(ref)
            if phase in ("", "COMPLETED", "ABANDONED"):
                self.open_round(task_id, 0, again=False)
            elif phase == "SELECTING":
                for number in sorted(clients):
                    self.enrol(3, number)
                    self.check_in(number, self.drawn, task_id)
                    self.drawn += 1
                self.advance_round(task_id, 0, 0, clients, abandon=0)
            elif phase == "RELEASING":
                self.complete_round(task_id, 0, 0, 0)
                self.scrub_round(task_id, 0)
            else:
                for pick in range(len(clients)):
                    self.begin_upload(pick, 10)
                    self.seal_upload(pick, "a")
                self.advance_round(task_id, 0, 0, set(), abandon=0)

    @rule(task_id=tasks, age=stale)
    def scrub_round(self, task_id: str, age: int) -> None:
        if (ref := self.newest(task_id)) is not None:
            token = self.lease(task_id, age).token
            self.both("scrub_round", ref, lease_token=token, audit=entry("scrub"))

    @rule(task_id=tasks, number=small)
    def put_session(self, task_id: str, number: int) -> None:
        ref = self.newest(task_id) or RoundRef(task_id, 9, 9)
        self.both("put_session", ref, {f"record {number}": digest(str(self.clock.now))})

    # Clients.

    @rule(number=small, request=small, task_id=tasks)
    def check_in(self, number: int, request: int, task_id: str) -> None:
        client = World.client_id(2 * number)
        name = digest(f"check-in {request}")[:16]
        self.both("check_in", client, name, wanted=task_id, task_id=task_id, offer={})

    @rule(number=small, request=small)
    def refuse_check_in(self, number: int, request: int) -> None:
        client = World.client_id(2 * number)
        self.both("refuse_check_in", client, digest(f"check-in {request}")[:16], (1, 2))

    @rule(pick=small, state=st.sampled_from(["COMPLETED", "DROPPED"]))
    def end_assignment(self, pick: int, state: str) -> None:
        self.both("end_assignment", self.part(pick), AssignmentState(state))

    @rule(pick=small, size=st.sampled_from([10, 10, 10, 11]))
    def begin_upload(self, pick: int, size: int) -> None:
        part = self.part(pick)
        self.both("begin_upload", part, hashlib.sha256(part).digest()[:16], size=size)

    @rule(pick=small, offset=st.integers(0, 10))
    def committed(self, pick: int, offset: int) -> None:
        self.both("committed", self.upload(pick), offset)

    @rule(pick=small, content=st.sampled_from(["a", "a", "a", "b"]))
    def seal_upload(self, pick: int, content: str) -> None:
        self.both("seal_upload", self.upload(pick), digest(content), audit=entry("seal"))

    # What becomes of the program.

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.opened())

    @rule(asked=st.lists(st.integers(10, 30), unique=True, max_size=3))
    def crash(self, asked: list[int]) -> None:
        """Nothing is closed; what was asked for and not acknowledged happened whole, or not."""
        keys = [once(number, 0) for number in asked]
        self.run(self.fallen(asked, keys))
        self.store = self.run(self.opened())
        assert self.run(self.store.integrity()) == ()
        for number, key in zip(asked, keys, strict=True):
            if self.run(self.store.recall(key)) is not None:
                self.plain.create_token(fresh(number), audit=entry("late"), idempotency=key)

    @precondition(lambda self: self.plain.rounds)
    @rule()
    def restore(self) -> None:
        """A backup was put in place: an epoch begins, and no lease of before it holds."""
        self.both("bump_epoch", RESTORED, audit=entry("epoch"))

    @invariant()
    def shows_the_same(self) -> None:
        shown = self.plain.shown()
        assert self.run(observed(self.store, [*self.plain.tokens])) == shown
        statistics = self.run(self.store.statistics())
        assert self.run(self.store.audit_head()).sequence == len(self.plain.audit)
        assert statistics.rounds_open == sum(r.open for r in self.plain.rounds.values())
        for task_id in TASKS:  # W6: a model for every round that was completed, and no other
            done = [ref for ref in self.of(task_id) if self.phase(ref) == "COMPLETED"]
            assert len(self.plain.lines.get(task_id, [b""])) == 1 + len(done)

    def both(self, name: str, *values: Any, **options: Any) -> Any:
        """Does an act to the store and to the model; what the store gave, None for a refusal."""
        refused: type[FedcoreError] | None = None
        try:
            getattr(self.plain, name)(*values, **options)
        except FedcoreError as error:
            refused = type(error)
        if refused is None:
            return self.run(getattr(self.store, name)(*values, **options))
        with pytest.raises(refused) as raised:
            self.run(getattr(self.store, name)(*values, **options))
        assert raised.type is refused
        return None

    def run(self, act: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await act

        return self.runner.run(awaited())

    async def opened(self) -> SqliteStore:
        path = self.folder / str(self.lives) / "server.db"
        return await SqliteStore.open(path, keys=[KEY], clock=self.clock)

    async def fallen(self, asked: list[int], keys: list[Idempotency]) -> None:
        """The files as they are within a transaction, in a folder for the next life."""
        old, new = (self.folder / str(self.lives + n) for n in (0, 1))

        def copy(_: object) -> None:
            new.mkdir()
            for file in ("server.db", "server.db-wal"):
                if (old / file).exists():
                    shutil.copyfile(old / file, new / file)

        half = len(asked) // 2
        waiting = [
            asyncio.ensure_future(
                self.store.create_token(fresh(number), audit=entry("late"), idempotency=key)
            )
            for number, key in zip(asked, keys, strict=True)
        ]
        for place in range(half + 1):  # so that some were taken up before the files were copied
            await asyncio.sleep(0)
            if place == half:
                await self.store._writer.run(copy)
        await asyncio.gather(*waiting, return_exceptions=True)  # unheard of in the next life
        await self.store.close()
        shutil.rmtree(old)
        self.lives += 1

    def of(self, task_id: str) -> list[RoundRef]:
        return [ref for ref in self.plain.rounds if ref.task_id == task_id]

    def newest(self, task_id: str) -> RoundRef | None:
        return max(self.of(task_id), default=None)

    def phase(self, ref: RoundRef) -> str:
        found: PlainRound = self.plain.rounds[ref]
        return found.phase

    def lease(self, task_id: str, age: int) -> Lease:
        held = self.leases[task_id]
        return held[-1 - min(age, len(held) - 1)]

    def part(self, pick: int) -> bytes:
        parts = [part for found in self.plain.rounds.values() for part in found.parts]
        return parts[-1 - pick] if pick < len(parts) else bytes(16)

    def upload(self, pick: int) -> bytes:
        uploads = [u for found in self.plain.rounds.values() for u in found.uploads.values()]
        return bytes(uploads[-1 - pick]["id"]) if pick < len(uploads) else bytes(16)  # type: ignore[call-overload]


def fresh(number: int) -> TokenRecord:
    return TokenRecord(digest(f"token {number}"), "acme", 1, 2**50)


HEALTHY = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_any_acts_crashes_and_restarts_leave_what_the_model_says() -> None:
    few = settings(
        derandomize=True, max_examples=5, stateful_step_count=15, suppress_health_check=HEALTHY
    )
    run_state_machine_as_test(StoreMachine, settings=few)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("quarter", range(4))
def test_many_acts_crashes_and_restarts_leave_what_the_model_says(quarter: int) -> None:
    """In all 500 runs of 50 steps, which differ from one time to the next."""
    many = settings(
        max_examples=125,
        stateful_step_count=50,
        derandomize=False,
        suppress_health_check=HEALTHY,
    )
    run_state_machine_as_test(StoreMachine, settings=many)
