"""A whole session in one call: what it takes, and what it refuses before anything is sent."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fedcore.errors import AbortError, PackingError, ParameterError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.effects import NeedInput
from fedcore.secagg.loopback import LostAt
from fedcore.secagg.messages import MaskRequest, decode
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.params import Profile
from fedcore.secagg.session import default_layout, make_loopback, run_session
from fedcore.secagg.stages import Stage

VECTORS = np.arange(15).reshape(5, 3)


class Lazy:
    """A source that computes its integers when they are asked for."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __len__(self) -> int:
        return 3

    def __getitem__(self, window: slice) -> np.ndarray:
        return np.arange(self._start, self._start + 3)[window]


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
    ],
    ids=["array", "int8", "uint32", "lists", "list", "blocks", "lazy", "columns"],
)
def test_integers_of_any_form_are_added_up(vectors: Any) -> None:
    result = run_session(vectors)
    np.testing.assert_array_equal(result.totals[0], VECTORS.sum(axis=0))
    assert result.survivors == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        (None, "no vectors"),
        (7, "no vectors"),
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


def test_one_client_makes_no_session() -> None:
    with pytest.raises(ParameterError, match="n = 1"):
        run_session(VECTORS[:1])


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
