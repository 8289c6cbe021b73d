"""What the mode exact opens is the sum of the survivors' integers, and it opens nothing else."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.entropy import SeededEntropy
from fedcore.errors import AbortError, ArgumentError, PackingError, ParameterError, TaskError
from fedcore.federated import (
    Contributor,
    Task,
    TrainingRequest,
    UpdateLayout,
    algorithm_of,
    initial_theta,
    train_in_process,
)
from fedcore.rounds import Phase
from fedcore.secagg import LostAt, SecAggServer, encode, run_session
from fedcore.secagg.packing import pack, unpack
from fedsim.clock import ClockState, SynchronousClock, Terms, Work
from fedsim.devices import Stage
from fedsim.modes.secure_parties import Blocks
from fedsim.modes.secure_session import SecureTotal
from fedsim.modes.secure_sum import SecureSum
from tests.random_examples import thorough
from tests.sim.clock.hands import Device, Hands
from tests.sim.tasks import population_of, task_of
from tests.variants import mostly_slow

MODEL = bytes(range(32))
PLACES = 12
NAMES = [f"device-{place}" for place in range(PLACES)]
NOISY = "unit = 'client', epsilon = 8.0, population = 100, clipping_norm = 1, noise = 'shares'"
EVERYONE = (0, 1, 2, 4, 5, 8, 11)
"""Places of seven clients, of whom two may be lost."""


@lru_cache
def task_with(profile: str = "malicious", *, noisy: bool = False, rounds: int = 3) -> Task:
    secure = f'profile = "{profile}", gamma = 0, delta = "2/7"'
    privacy = NOISY if noisy else ""
    return task_of(secure=secure, privacy=privacy, goal=8, minimum=6, rounds=rounds)


def blocks_for(task: Task, seed: int) -> dict[int, Blocks]:
    """Integers as large as each block takes them, for every place."""
    draw = np.random.default_rng(seed)
    found = {}
    for place in range(PLACES):
        ends = [2**63 - 1 if block.wraps else block.limit for block in task.layout.blocks]
        lengths = [block.length for block in task.layout.blocks]
        found[place] = tuple(
            draw.integers(-end, end, length, endpoint=True)
            for end, length in zip(ends, lengths, strict=True)
        )
    return found


def sum_of(task: Task, blocks: Mapping[int, Blocks], survivors: tuple[int, ...]) -> list[Any]:
    """In integers without end; where a block may wrap, of packed words, as the mode fast adds."""
    totals = []
    for place, block in enumerate(task.layout.blocks):
        own = [blocks[client][place] for client in survivors]
        if block.wraps:
            words = [pack(block, one, 0, block.words) for one in own]
            totals.append(unpack(block, np.sum(words, axis=0, dtype=np.uint64)).tolist())
        else:
            totals.append(np.sum([one.astype(object) for one in own], axis=0).tolist())
    return totals


def summed(
    task: Task,
    given: Mapping[int, Blocks],
    lost: Mapping[int, LostAt],
    *,
    threads: int = 1,
    roster: tuple[int, ...] = EVERYONE,
) -> SecureTotal:
    sums = SecureSum(task, NAMES, threads=threads)
    return sums.sum(given.get, set(roster), lost, round=0, attempt=1, model_digest=MODEL)


def told(total: SecureTotal) -> list[list[int]]:
    return [block.tolist() for block in total.totals]


LOST = st.dictionaries(st.sampled_from(EVERYONE), st.sampled_from(LostAt), max_size=4)


@given(
    st.sampled_from(["malicious", "semi_honest"]), st.booleans(), LOST, st.integers(1, 3), st.data()
)
@settings(max_examples=thorough(30))
def test_totals_are_those_of_the_survivors_or_the_machine_says_why_not(
    profile: str, noisy: bool, lost: dict[int, LostAt], threads: int, data: st.DataObject
) -> None:
    task = task_with(profile, noisy=noisy)
    blocks = blocks_for(task, data.draw(st.integers(0, 99)))
    places = {client: place for place, client in enumerate(EVERYONE)}
    try:
        expected = run_session(
            [blocks[client] for client in EVERYONE],
            config=task.session_config(),
            dropouts={places[client]: at for client, at in lost.items()},
        )
    except (AbortError, PackingError) as error:
        with pytest.raises(type(error)):
            summed(task, blocks, lost, threads=threads)
        return
    found = summed(task, blocks, lost, threads=threads)
    assert found.survivors == tuple(EVERYONE[place] for place in expected.survivors)
    assert told(found) == sum_of(task, blocks, found.survivors)
    assert not found.refused


@pytest.mark.parametrize("profile", ["malicious", "semi_honest"])
@pytest.mark.parametrize("at", LostAt)
@pytest.mark.parametrize("count", mostly_slow([2, 3, 1], quick=2))
def test_so_many_may_be_lost_at_any_stage_as_the_terms_provide_for(
    profile: str, at: LostAt, count: int
) -> None:
    task, lost = task_with(profile), dict.fromkeys(EVERYONE[:count], at)
    blocks = blocks_for(task, 1)
    # To open the sum takes a threshold of answers, which are fewer than the terms provide for.
    last = LostAt.CONFIRMATION if profile == "malicious" else LostAt.UPLOADING
    if count > 2 and at <= last:
        with pytest.raises(AbortError):
            summed(task, blocks, lost)
        return
    found = summed(task, blocks, lost)
    gone = EVERYONE[:count] if at < LostAt.CONFIRMATION else ()
    assert found.survivors == tuple(client for client in EVERYONE if client not in gone)
    assert told(found) == sum_of(task, blocks, found.survivors)


def test_without_enough_clients_there_is_no_session() -> None:
    task = task_with()
    with pytest.raises(AbortError) as caught:  # no device joins fewer than the task's minimum
        summed(task, blocks_for(task, 1), {}, roster=EVERYONE[:5])
    assert caught.value.__cause__ is not None and "5 clients" in str(caught.value.__cause__)
    with pytest.raises(ParameterError):
        summed(task, blocks_for(task, 1), {}, roster=EVERYONE[:1])


def test_a_task_without_secure_aggregation_has_no_sessions() -> None:
    with pytest.raises(TaskError):
        SecureSum(task_of(), NAMES)
    with pytest.raises(ArgumentError):
        SecureSum(task_with(), NAMES, threads=0)


def test_a_client_without_blocks_is_lost_before_its_upload() -> None:
    task = task_with()
    blocks = blocks_for(task, 2)
    without = {place: given for place, given in blocks.items() if place != 4}
    found, lost = summed(task, without, {}), summed(task, blocks, {4: LostAt.UPLOAD})
    assert found.survivors == lost.survivors == (0, 1, 2, 5, 8, 11)
    assert told(found) == told(lost)


def test_what_a_machine_refuses_is_named_and_its_client_is_silent() -> None:
    task = task_with()
    blocks = blocks_for(task, 2)
    blocks[8] = (blocks[8][0] + 2 * task.layout.blocks[0].limit, blocks[8][1])
    found = summed(task, blocks, {}, threads=2)
    assert found.survivors == (0, 1, 2, 4, 5, 11)
    assert told(found) == sum_of(task, blocks, found.survivors)
    assert [type(error) for error in found.refused.values()] == [PackingError]
    assert list(found.refused) == [8]


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_are_asked_for_once_in_order_and_only_of_who_uploads(threads: int) -> None:
    task, asked = task_with(), []
    blocks = blocks_for(task, 3)

    def blocks_of(place: int) -> Blocks:
        asked.append(place)
        return blocks[place]

    lost = {0: LostAt.SHARES, 5: LostAt.UPLOADING}
    sums = SecureSum(task, NAMES, threads=threads)
    found = sums.sum(blocks_of, set(EVERYONE), lost, round=0, attempt=1, model_digest=MODEL)
    assert asked == [1, 2, 4, 5, 8, 11] and found.survivors == (1, 2, 4, 8, 11)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_few_vectors_are_in_memory_at_a_time(threads: int) -> None:
    task = task_with()
    blocks = blocks_for(task, 3)
    given: list[weakref.ref[Any]] = []
    most = 0

    def blocks_of(place: int) -> Blocks:
        nonlocal most
        gc.collect()
        most = max(most, sum(one() is not None for one in given))
        own = tuple(block.copy() for block in blocks[place])
        given.append(weakref.ref(own[0]))
        return own

    SecureSum(task, NAMES, threads=threads).sum(
        blocks_of, set(EVERYONE), {}, round=0, attempt=1, model_digest=MODEL
    )
    assert len(given) == 7 and most <= threads + 1


class Heard:
    """Every message that servers take, as bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        handle, takes = SecAggServer.handle, SecAggServer.takes

        def handled(server: SecAggServer, client_id: bytes, message: Any) -> Any:
            self.messages.append((client_id, encode(message)))
            return handle(server, client_id, message)

        def taken(server: SecAggServer, client_id: bytes, chunk: Any) -> bool:
            self.messages.append((client_id, encode(chunk)))
            return takes(server, client_id, chunk)

        monkeypatch.setattr(SecAggServer, "handle", handled)
        monkeypatch.setattr(SecAggServer, "takes", taken)


def test_seeded_secrets_give_the_same_bytes_for_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, lost = task_with(), {5: LostAt.UPLOADING}
    blocks, heard = blocks_for(task, 4), []
    for threads, seed in [(1, b"s"), (1, b"s"), (3, b"s"), (1, b"t")]:
        with monkeypatch.context() as patch:
            spy = Heard(patch)
            sums = SecureSum(task, NAMES, threads=threads, entropy=SeededEntropy(seed))
            for attempt in (1, 2):
                sums.sum(
                    blocks.get, set(EVERYONE), lost, round=0, attempt=attempt, model_digest=MODEL
                )
            heard.append(spy.messages)
    assert heard[0] == heard[1] == heard[2] != heard[3]


def test_a_client_keeps_its_name_and_no_session_repeats_a_byte_of_its_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = task_with()
    blocks, spy, sessions = blocks_for(task, 4), Heard(monkeypatch), []
    sums = SecureSum(task, NAMES)
    for attempt in (1, 2):
        sums.sum(blocks.get, set(EVERYONE), {}, round=0, attempt=attempt, model_digest=MODEL)
        sessions.append(list(spy.messages))
        spy.messages.clear()
    assert {name for name, _ in sessions[0]} == {name for name, _ in sessions[1]}
    assert not {data for _, data in sessions[0]} & {data for _, data in sessions[1]}


def test_who_confirms_too_late_still_helps_to_open_the_sum() -> None:
    task = task_with()
    blocks, everyone = blocks_for(task, 5), frozenset(EVERYONE)
    session = SecureSum(task, NAMES).session(blocks.get, round=2, attempt=1, model_digest=MODEL)
    for phase in (Phase.KEYS, Phase.SHARES, Phase.COLLECTING):
        assert session.close(phase, everyone) == everyone
    assert session.close(Phase.CONFIRMING, everyone - {1}) == everyone
    assert session.close(Phase.UNMASKING, everyone) == everyone
    session.release(everyone)
    assert told(session.total) == sum_of(task, blocks, EVERYONE) and not session.total.refused


CHANCE = st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


@given(
    st.sampled_from(["malicious", "semi_honest"]),
    st.lists(st.tuples(st.sampled_from(Stage), CHANCE), min_size=8, max_size=8),
)
@settings(max_examples=15)
def test_a_clock_that_asks_the_machines_sees_the_rounds_of_one_that_counts(
    profile: str, chances: list[tuple[Stage, float]]
) -> None:
    task = task_with(profile)
    devices = [Device(compute=1, upload=5000, dropout={stage: chance}) for stage, chance in chances]
    clock = SynchronousClock(Terms.of(task), Hands(devices))
    work = Work.of(task, np.full(8, 4))
    sums, blocks, opened = SecureSum(task, NAMES), blocks_for(task, 6), []

    def session(attempt: int) -> Any:
        opened.append(sums.session(blocks.get, round=0, attempt=attempt, model_digest=MODEL))
        return opened[-1]

    counted = clock.round(0, ClockState(), work)
    asked = clock.round(0, ClockState(), work, session=session)
    assert len(asked.attempts) == len(counted.attempts) == len(opened)
    for one, other in zip(asked.attempts, counted.attempts, strict=True):
        assert (one.lost, one.survivors, one.end) == (other.lost, other.survivors, other.end)
        assert one.silent_from == other.silent_from and one.roster == other.roster
    if not asked.completed:
        return
    last = asked.last
    assert opened[-1].total.survivors == last.survivors
    again = sums.sum(
        blocks.get, set(last.roster), last.silent_from, round=1, attempt=1, model_digest=MODEL
    )
    assert told(again) == told(opened[-1].total) == sum_of(task, blocks, last.survivors)


def test_a_failing_program_leaves_a_clock_without_that_report() -> None:
    task = task_with()
    blocks = {place: given for place, given in blocks_for(task, 7).items() if place != 3}
    clock = SynchronousClock(Terms.of(task), Hands([Device(compute=1, upload=5000)] * 8))
    sums = SecureSum(task, NAMES)
    found = clock.round(
        0,
        ClockState(),
        Work.of(task, np.full(8, 4)),
        session=lambda attempt: sums.session(
            blocks.get, round=0, attempt=attempt, model_digest=MODEL
        ),
    )
    assert found.completed and 3 in found.last.lost
    assert found.last.survivors == (0, 1, 2, 4, 5, 6, 7)


@pytest.mark.parametrize("profile", mostly_slow(["malicious", "semi_honest"]))
def test_its_models_are_those_of_a_whole_task_in_one_process(profile: str) -> None:
    task, people = task_with(profile, rounds=2), population_of((5, 12, 3, 12, 7, 9, 4))
    clients = {client.name: client.dataset for client in people}
    expected = train_in_process(task, clients)
    sums = SecureSum(task, people.names, threads=2)
    algorithm, layout, worker = algorithm_of(task), UpdateLayout.of(task), Contributor(task)
    theta, state = initial_theta(task), algorithm.start()
    for round, wanted in enumerate(expected):
        sent = algorithm.sent(theta, state)

        def blocks_of(place: int, sent: Any = sent, round: int = round) -> Blocks:
            client = people[place]
            return worker.contribute(
                TrainingRequest(
                    task=task,
                    theta=sent,
                    dataset=client.dataset,
                    round=round,
                    stream=client.stream,
                )
            )

        found = sums.sum(blocks_of, set(range(7)), {}, round=round, attempt=1, model_digest=MODEL)
        mean = layout.mean(found.totals, len(found.survivors))
        theta, state = algorithm.apply(theta, mean, state, round=round)
        assert theta.tobytes() == wanted.tobytes()


def test_a_client_takes_part_on_no_other_terms_than_its_tasks() -> None:
    sums, weaker = SecureSum(task_with(), NAMES), task_with("semi_honest")
    sums._config = weaker.session_config()
    blocks = blocks_for(weaker, 1)
    with pytest.raises(AbortError) as caught:
        sums.sum(blocks.get, set(EVERYONE), {}, round=0, attempt=1, model_digest=MODEL)
    assert "SEMI_HONEST" in str(caught.value.__cause__)
