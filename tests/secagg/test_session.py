"""A whole session in one call: what it takes, and what it refuses before anything is sent."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fedcore.errors import AbortError, ArgumentError, PackingError, ParameterError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.effects import NeedInput
from fedcore.secagg.loopback import LostAt, unmask_in_threads
from fedcore.secagg.messages import Abort, AbortReason, MaskRequest, decode
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.params import LARGEST_SESSION, Profile
from fedcore.secagg.prg import Prg
from fedcore.secagg.session import default_layout, make_loopback, run_session, shards
from fedcore.secagg.stages import Stage
from fedcore.secagg.unmask import UnmaskPlan

VECTORS = np.arange(15).reshape(5, 3)


class Lazy:
    """A source that computes its integers when they are asked for."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __len__(self) -> int:
        return 3

    def __getitem__(self, window: slice) -> np.ndarray:
        return np.arange(self._start, self._start + 3)[window]


class Counted:
    """It has a length, and no integers."""

    def __len__(self) -> int:
        return 3


class Indexed:
    """It has integers, and tells nobody how many."""

    def __getitem__(self, window: slice) -> np.ndarray:
        return np.arange(3)[window]


@pytest.mark.parametrize(
    "vectors",
    [
        VECTORS,
        VECTORS.astype(np.int8),
        VECTORS.astype(np.uint32),
        VECTORS.tolist(),
        list(VECTORS),
        [[vector] for vector in VECTORS],
        [[Lazy(3 * i)] for i in range(5)],
        np.asfortranarray(VECTORS),
        [[vector] for vector in VECTORS.tolist()],
    ],
    ids=["array", "int8", "uint32", "lists", "list", "blocks", "lazy", "columns", "lists of lists"],
)
def test_integers_of_any_form_are_added_up(vectors: Any) -> None:
    result = run_session(vectors)
    np.testing.assert_array_equal(result.totals[0], VECTORS.sum(axis=0))
    assert result.survivors == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        (None, "NoneType is no sequence"),
        (7, "int is no sequence"),
        (np.array(7), "ndarray is no sequence"),
        ("abc", "str is no sequence"),
        (set(), "set is no sequence"),
        ((vector for vector in VECTORS), "generator is no sequence"),
        (Lazy(0), "Lazy is no sequence"),
        ([], "no vectors"),
        (np.zeros((0, 3), int), "no vectors"),
        (np.arange(5), "client 0 .* int64"),
        ([VECTORS[0], None, VECTORS[1]], "client 1 .* NoneType"),
        ([VECTORS[0], [], VECTORS[1]], "client 1 .* list"),
        (VECTORS.astype(float), "client 0 .* float64"),
        (VECTORS.astype(bool), "client 0 .* bool"),
        (VECTORS.astype(np.uint64), "client 0 .* uint64"),
        ([[1.5, 2.0], [1.0, 2.0]], "client 0"),
        ([VECTORS[0], VECTORS[1][:2], VECTORS[2]], "client 1 .* 2 integers"),
        ([[VECTORS[0]], [VECTORS[1]] * 2, [VECTORS[2]]], "client 1 .* 2 blocks"),
        (VECTORS.reshape(5, 3, 1), "client 0"),
        ([VECTORS[0], VECTORS[1] + 2**31, VECTORS[2]], "client 1 .* beyond its limit"),
        ([[object()]] * 3, "client 0"),
        ([VECTORS[0], (x for x in VECTORS[1])], "client 1 .* generator"),
        ([VECTORS[0], [x for x in "abc"]], "client 1 .* str"),
        ([VECTORS[0], "abc"], "client 1 .* str"),
        ([VECTORS[0], {0: VECTORS[1]}], "client 1 .* dict"),
        ([VECTORS[0], [Counted()]], "client 1 .* type Counted"),
        ([VECTORS[0], [Indexed()]], "client 1 .* type Indexed"),
        ([VECTORS[0], [1, [2], 3]], "client 1 .* ragged"),
        ([[1, 2, 3], [4, 5], [6, 7, 8]], "client 1 .* 2 integers"),
        ([[1, 2, 3], [4, 5, 2**70], [6, 7, 8]], "client 1 .* dtype object"),
        ([VECTORS[0], np.array(7)], "client 1 .* ndarray"),
        ([VECTORS[0], [np.array(7)]], "client 1 .* ndarray"),
        (np.zeros((5, 0), int), "client 0 .* no integers"),
        ([VECTORS[0], np.zeros(0, int)], "client 1 .* no integers"),
        ([VECTORS[0], [[]]], "client 1 .* no integers"),
        (np.ma.masked_array(VECTORS, VECTORS == 4), "client 0 .* masked array"),
        ([VECTORS[0], [np.ma.masked_array(VECTORS[1])]], "client 1 .* masked array"),
    ],
)
def test_what_cannot_be_added_up_is_refused_by_the_client_that_gives_it(
    vectors: Any, what: str
) -> None:
    with pytest.raises(PackingError, match=what) as refused:
        run_session(vectors)
    assert refused.value.why and refused.value.fix


def test_the_value_that_is_out_of_range_is_not_told() -> None:
    with pytest.raises(PackingError) as refused:
        run_session(VECTORS + 123_456_789_012)
    assert "123456789" not in str(refused.value).replace(",", "")


@pytest.mark.parametrize("sources", [[Lazy(0), Lazy(3)], [[Lazy(0)], Lazy(3)]])
def test_a_source_that_stands_alone_is_told_how_to_be_a_vector(sources: Any) -> None:
    with pytest.raises(PackingError, match=r"client [01] .* Lazy") as refused:
        run_session(sources)
    assert "[source]" in refused.value.fix


def test_who_lists_what_is_generated_has_a_sum() -> None:
    vectors = (vector for vector in VECTORS)
    with pytest.raises(PackingError) as refused:
        run_session(vectors)  # type: ignore[arg-type]
    assert "list(vectors)" in refused.value.fix
    np.testing.assert_array_equal(run_session(list(vectors)).totals[0], VECTORS.sum(axis=0))


@pytest.mark.parametrize("largest", [2, LARGEST_SESSION])
def test_one_client_makes_no_session_and_no_shard(largest: int) -> None:
    for clients in (1, 3) if largest == 2 else (1,):
        with pytest.raises(ParameterError, match="n = 1") as refused:
            run_session(VECTORS[:clients], largest=largest)
        assert "needs two clients" in refused.value.fix
        assert "several" not in refused.value.fix


def test_the_fix_for_a_delta_that_three_clients_cannot_have_works() -> None:
    with pytest.raises(ParameterError, match="cannot lose 1") as refused:
        run_session(VECTORS[:3], delta=Fraction(1, 3))
    assert refused.value.fix == "lower delta to 0"
    np.testing.assert_array_equal(run_session(VECTORS[:3], delta=0).totals[0], VECTORS[:3].sum(0))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", None, True])
def test_a_number_of_threads_is_a_plain_int_from_one_on(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="threads"):
        run_session(VECTORS, threads=wrong)
    with pytest.raises(ArgumentError, match="threads"):
        plan = UnmaskPlan(Prg.AES_128_CTR, ())
        unmask_in_threads(np.zeros(3, np.uint64), plan, threads=wrong)


def test_more_threads_than_there_is_work_for_change_nothing() -> None:
    np.testing.assert_array_equal(
        run_session(VECTORS, threads=10**12).totals[0], VECTORS.sum(axis=0)
    )
    unmask_in_threads(np.zeros(0, np.uint64), UnmaskPlan(Prg.AES_128_CTR, ()), threads=2)


@pytest.mark.parametrize("wrong", [0, 1, -3, LARGEST_SESSION + 1, 2.0, None, True])
def test_a_largest_shard_is_of_as_many_clients_as_a_session_may_have(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="largest"):
        shards(10, largest=wrong)
    with pytest.raises(ArgumentError, match="largest"):
        run_session(VECTORS, largest=wrong)


@pytest.mark.parametrize("wrong", [0, -3, 2.0, None, True])
def test_nobody_is_not_divided_into_shards_and_shares_no_slot(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="clients"):
        shards(wrong)
    with pytest.raises(ArgumentError, match="clients"):
        default_layout(10, wrong)


@pytest.mark.parametrize(
    ("dropouts", "what"),
    [
        ({1, 2}, "dropouts is a set"),
        ([LostAt.UPLOAD], "dropouts is a list"),
        (LostAt.UPLOAD, "dropouts is a LostAt"),
        ({5: LostAt.UPLOAD}, "client 5"),
        ({-1: LostAt.UPLOAD}, "client -1"),
        ({1.0: LostAt.UPLOAD}, r"client 1\.0"),
        ({"1": LostAt.UPLOAD}, "client '1'"),
        ({True: LostAt.UPLOAD}, "client True"),
        ({1: 2}, "at 2"),
        ({1: None}, "at None"),
        ({1: Stage.UPLOADS}, "at .*UPLOADS"),
    ],
)
def test_dropouts_that_would_lose_nobody_are_refused(dropouts: Any, what: str) -> None:
    config = SessionConfig(task=bytes(32), layout=default_layout(3, 5), delta=Fraction(1, 5))
    for call in (
        lambda: run_session(VECTORS, config=config, dropouts=dropouts),
        lambda: make_loopback(config, [[vector] for vector in VECTORS], dropouts=dropouts),
    ):
        with pytest.raises(ArgumentError, match=what) as refused:
            call()
        assert refused.value.why and refused.value.fix


def test_a_client_that_a_random_generator_chose_is_lost() -> None:
    result = run_session(
        VECTORS,
        delta=Fraction(1, 5),
        dropouts={np.int64(3): LostAt.UPLOAD, np.int64(0): LostAt.ANSWER},
    )
    assert result.survivors == (0, 1, 2, 4)


@pytest.mark.parametrize("first", [0, 8, 16])
def test_a_shard_that_ends_without_a_sum_names_itself_and_its_clients(first: int) -> None:
    lost = {first + 1: LostAt.UPLOAD, first + 7: LostAt.SHARES}
    with pytest.raises(AbortError) as ended:
        run_session(np.ones((24, 3), int), delta=Fraction(1, 8), dropouts=lost, largest=8)
    inner = ended.value.__cause__
    assert type(inner) is AbortError
    shard = f"shard {first // 8 + 1} of 3 (clients {first} to {first + 7}): "
    assert ended.value.what == shard + inner.what
    for told in ("code", "why", "fix", "stage", "culprit"):
        assert getattr(ended.value, told) == getattr(inner, told)


def test_a_session_that_is_the_only_one_is_no_shard() -> None:
    lost = {1: LostAt.UPLOAD, 4: LostAt.UPLOAD}
    with pytest.raises(AbortError) as ended:
        run_session(VECTORS, delta=Fraction(1, 5), dropouts=lost)
    assert "shard" not in ended.value.what


def test_blocks_of_several_widths_come_back_apart() -> None:
    layout = Layout((Block(3, 16, 50), Block(2, 37, 2**30)))
    config = SessionConfig(task=bytes(32), layout=layout, delta=Fraction(1, 5))
    vectors = [[VECTORS[i], np.array([i * 2**20, -1])] for i in range(5)]
    result = run_session(vectors, config=config, dropouts={1: LostAt.CONFIRMATION})
    np.testing.assert_array_equal(result.totals[0], VECTORS.sum(axis=0))
    np.testing.assert_array_equal(result.totals[1], [10 * 2**20, -5])


@pytest.mark.parametrize("profile", Profile)
def test_a_result_says_no_more_of_its_protection_than_its_profile_may(profile: Profile) -> None:
    assert run_session(VECTORS, profile=profile).claim == profile.claim


def test_the_largest_integers_of_the_default_layout_add_up() -> None:
    limit = default_layout(3, 5).blocks[0].limit
    for sign in (1, -1):
        result = run_session(np.full((5, 3), sign * limit))
        assert result.totals[0].tolist() == [5 * sign * limit] * 3


def test_threads_do_not_change_the_sum() -> None:
    vectors = np.random.default_rng(0).integers(-1000, 1000, (3, 200_000))
    sums = [run_session(vectors, threads=threads).totals[0] for threads in (1, 2, 3)]
    for total in sums:
        np.testing.assert_array_equal(total, vectors.sum(axis=0))


def test_a_session_that_ends_names_the_refusal_that_led_to_it() -> None:
    config = SessionConfig(task=bytes(32), layout=default_layout(3, 5))
    loopback, ids = make_loopback(config, [[vector] for vector in VECTORS])
    loopback.hosts[ids[0]].now = 2**41  # a clock that runs ahead: every certificate has expired
    for client_id, host in loopback.hosts.items():
        loopback.to_server(client_id, host.offer(1, expires=2**40))
    loopback.close(Stage.PREKEYS)
    with pytest.raises(AbortError) as ended:
        loopback.close(Stage.SHARES)
    assert ended.value.__cause__ is loopback.refused[0][1]


def test_a_device_is_told_the_terms_that_it_agreed_to() -> None:
    config = SessionConfig(
        task=bytes(32), layout=default_layout(3, 5), clipping_norm=1.5, noise_multiplier=0.7
    )
    loopback, ids = make_loopback(config, [[vector] for vector in VECTORS], round=9)
    device = loopback.hosts[ids[0]]
    asked: list[NeedInput] = []

    def receive(data: bytes) -> Any:
        message = decode(data)
        effects = device.client.handle(message, now=0)
        asked.extend(effect for effect in effects if isinstance(effect, NeedInput))
        return device.perform([] if isinstance(message, MaskRequest) else effects)

    device.receive = receive  # type: ignore[method-assign]
    for client_id, host in loopback.hosts.items():
        loopback.to_server(client_id, host.offer(1, expires=2**40))
    loopback.close(Stage.PREKEYS)
    loopback.close(Stage.SHARES)
    (terms,) = asked
    assert (terms.config, terms.round, terms.committed) == (config, 9, False)


def test_sums_of_shards_that_may_not_fit_into_64_bits_are_refused() -> None:
    layout = Layout((Block(1, 64, 2**61),))
    config = SessionConfig(task=bytes(32), layout=layout)
    vectors = np.full((9, 1), 2**61)
    with pytest.raises(PackingError, match="9 clients may not fit"):
        run_session(vectors, config=config, largest=3)
    assert run_session(vectors[:3], config=config).totals[0].tolist() == [3 * 2**61]


def test_a_client_is_told_once_that_the_server_ended_its_session() -> None:
    config = SessionConfig(task=bytes(32), layout=default_layout(3, 5))
    loopback, ids = make_loopback(config, [[vector] for vector in VECTORS])
    for client_id, host in loopback.hosts.items():
        loopback.to_server(client_id, host.offer(1, expires=2**40))
    loopback.close(Stage.PREKEYS)
    loopback.to_clients(loopback.server.perform(loopback.server.server.abort()))
    device, sid = loopback.hosts[ids[0]], loopback.server.server.roster.sid
    assert isinstance(device.failure, AbortError) and "CANCELLED" in device.failure.why
    assert not device.client.stages and device.client.prekeys_left == 0
    assert device.client.handle(Abort(sid, AbortReason.CANCELLED), now=0) == []
    assert device.client.handle(Abort(bytes(32), AbortReason.CANCELLED), now=0) == []
