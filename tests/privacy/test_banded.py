"""The integer stream: its sensitivity over all patterns, and noise that cancels as theory says."""

from __future__ import annotations

import dataclasses
import json
import pickle
from itertools import combinations, pairwise
from math import isqrt, sqrt

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, DtypeError, PlanError, ReservationError, ShapeError
from fedcore.privacy.banded import BandedStream, Strategy
from fedcore.privacy.codec import from_json, to_json
from fedcore.privacy.toeplitz import optimised_coefficients, prefix_error, square_root_coefficients

IDENTITY = Strategy((1024,))


@st.composite
def strategies(draw: st.DrawFn, most: int = 4, largest: int = 9) -> Strategy:
    """Positive integers that do not increase."""
    values = draw(st.lists(st.integers(1, largest), min_size=1, max_size=most))
    return Strategy(tuple(sorted(values, reverse=True)))


def patterns(rounds: int, participations: int, separation: int) -> list[tuple[int, ...]]:
    """Every set of rounds in which one client may take part."""
    return [
        chosen
        for size in range(participations + 1)
        for chosen in combinations(range(rounds), size)
        if all(b - a >= separation for a, b in pairwise(chosen))
    ]


def matrix(strategy: Strategy, rounds: int) -> np.ndarray:
    """The lower-triangular matrix that the stream applies, built entry by entry."""
    result = np.zeros((rounds, rounds), np.int64)
    for row in range(rounds):
        for j, m in enumerate(strategy.coefficients[: row + 1]):
            result[row, row - j] = m
    return result


def worst(strategy: Strategy, rounds: int, participations: int, separation: int) -> int:
    """The largest squared norm that one client with vectors of norm 1 can move the stream by.

    || sum_i C_i x_i ||^2 = sum_ij <C_i, C_j> <x_i, x_j>, which is at most the sum of |C^T C| over
    the pattern, and reaches it by x_i = +-x, as no entry of C is negative.
    """
    gram = np.abs(matrix(strategy, rounds).T @ matrix(strategy, rounds))
    chosen = patterns(rounds, participations, separation)
    return max(int(gram[np.ix_(rows, rows)].sum()) for rows in chosen)


@given(strategies(), st.integers(1, 4), st.integers(0, 2), st.integers(0, 3))
def test_the_sensitivity_is_exact_over_all_patterns(
    strategy: Strategy, participations: int, slack: int, more: int
) -> None:
    separation = strategy.bands + slack
    rounds = (participations - 1) * separation + strategy.bands + more
    found = strategy.sensitivity2(participations, separation)
    assert type(found) is int
    assert found == worst(strategy, rounds, participations, separation)


@given(strategies(), st.integers(1, 4), st.integers(1, 12))
def test_in_fewer_rounds_the_sensitivity_is_still_a_bound(
    strategy: Strategy, participations: int, rounds: int
) -> None:
    found = strategy.sensitivity2(participations, strategy.bands)
    assert worst(strategy, rounds, participations, strategy.bands) <= found


@given(strategies().filter(lambda s: s.bands > 1), st.integers(2, 4), st.data())
def test_bands_wider_than_the_separation_are_refused_for_good_reason(
    strategy: Strategy, participations: int, data: st.DataObject
) -> None:
    separation = data.draw(st.integers(1, strategy.bands - 1))
    with pytest.raises(PlanError, match=f"{strategy.bands} bands"):
        strategy.sensitivity2(participations, separation)
    rounds = (participations - 1) * separation + strategy.bands
    orthogonal = participations * sum(m * m for m in strategy.coefficients)
    assert worst(strategy, rounds, participations, separation) > orthogonal


def test_who_takes_part_once_needs_no_separation() -> None:
    strategy = Strategy((4, 2, 1))
    assert strategy.sensitivity2(1, 1) == 21 == worst(strategy, 6, 1, 1)


@given(strategies(), st.integers(1, 3), st.integers(0, 2**32))
def test_neighbouring_streams_differ_by_no_more_than_the_sensitivity(
    strategy: Strategy, participations: int, seed: int
) -> None:
    """Two runs of the stream itself, one client's vectors of norm at most S taken out."""
    generator, norm, dimension = np.random.default_rng(seed), 1000, 5
    separation = strategy.bands + int(generator.integers(0, 3))
    rounds = (participations - 1) * separation + strategy.bands
    with_client, without = (BandedStream(strategy, dimension) for _ in range(2))
    moved = []
    for t in range(rounds):
        others = generator.integers(-(2**30), 2**30, dimension)
        mine = np.zeros(dimension, np.int64)
        if t % separation == 0:
            direction = generator.normal(size=dimension)
            mine = np.trunc(norm / np.linalg.norm(direction) * direction).astype(np.int64)
            if t == 0:
                mine = np.array([0, norm, 0, 0, 0])
        encoded = [with_client.encode(others + mine), without.encode(others)]
        for stream, y in zip((with_client, without), encoded, strict=True):
            stream.decode(y)
        moved += [int(x) for x in encoded[0] - encoded[1]]
    bound = strategy.sensitivity2(participations, separation) * norm**2
    assert sum(x * x for x in moved) <= bound


@given(strategies(most=6, largest=1024), st.integers(1, 9), st.integers(0, 2**32))
def test_encoding_is_the_matrix_product_in_plain_integers(
    strategy: Strategy, rounds: int, seed: int
) -> None:
    largest = strategy.largest_sum
    sums = np.random.default_rng(seed).integers(-largest, largest, (rounds, 3), endpoint=True)
    stream = BandedStream(strategy, 3)
    expected = matrix(strategy, rounds).astype(object) @ sums.astype(object)
    for total, row in zip(sums, expected, strict=True):
        encoded = stream.encode(total)
        assert encoded.dtype == np.int64
        assert encoded.tolist() == list(row)
        stream.decode(encoded)
    assert stream.steps == rounds


@given(strategies(most=6), st.integers(1, 9), st.integers(0, 2**32))
def test_noise_of_a_prefix_is_the_decoder_applied_to_the_noise(
    strategy: Strategy, rounds: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    sums = generator.integers(-(2**20), 2**20, (rounds, 4))
    noise = generator.integers(-(2**12), 2**12, (rounds, 4))
    stream = BandedStream(strategy, 4)
    decoded = [stream.decode(stream.encode(x) + k) for x, k in zip(sums, noise, strict=True)]
    inverse = np.linalg.inv(matrix(strategy, rounds))
    expected = np.cumsum(sums + inverse @ noise, axis=0)
    np.testing.assert_allclose(np.cumsum(decoded, axis=0), expected, rtol=1e-9, atol=1e-3)


def test_without_noise_decoding_gives_the_sums_back_exactly() -> None:
    strategy = Strategy.rounded(square_root_coefficients(20))
    sums = np.random.default_rng(7).integers(-1000, 1000, (4, 3))
    stream = BandedStream(strategy, 3)
    assert [stream.decode(stream.encode(x)).tolist() for x in sums] == sums.tolist()


def test_the_identity_is_the_plain_mechanism_on_a_finer_grid() -> None:
    generator = np.random.default_rng(5)
    stream = BandedStream(IDENTITY, 1000)
    for _ in range(3):
        total, noise = generator.integers(-(2**30), 2**30, (2, 1000))
        encoded = stream.encode(total)
        assert (encoded == 1024 * total).all()
        assert (stream.decode(encoded + noise) == total + noise / 1024).all()
    assert IDENTITY.sensitivity2(9, 1) == 9 * 1024**2
    assert IDENTITY.expected_error(199) == pytest.approx(10)


@pytest.mark.parametrize("bands", [1, 4, 20])
def test_the_error_of_prefix_sums_is_the_expected_one(bands: int) -> None:
    strategy = Strategy.design("optimised", rounds=200, bands=bands)
    participations, norm, dimension, rounds = 10, 2**16, 2000, 200
    generator = np.random.default_rng(bands)
    stream = BandedStream(strategy, dimension)
    sigma = norm * sqrt(strategy.sensitivity2(participations, 20))
    prefix = np.zeros(dimension)
    squared = 0.0
    for _ in range(rounds):
        total = generator.integers(-norm, norm, dimension)
        noise = np.rint(generator.normal(0, sigma, dimension)).astype(np.int64)
        prefix += stream.decode(stream.encode(total) + noise) - total
        squared += float(prefix @ prefix)
    found = sqrt(squared / (rounds * dimension)) / norm
    expected = sqrt(participations) * strategy.expected_error(rounds)
    # Four standard deviations: even of a random walk over 2,000 coordinates one is 1.3 %.
    assert found == pytest.approx(expected, rel=0.06)
    # And banded noise pays: 31.7 without it, 9.98 with 20 bands.
    assert bands < 20 or found < 11


@pytest.mark.parametrize("family", ["square-root", "optimised"])
@pytest.mark.parametrize(("rounds", "bands"), [(200, 20), (1000, 100), (2052, 342)])
def test_rounding_coefficients_to_integers_costs_nothing(
    family: str, rounds: int, bands: int
) -> None:
    found = Strategy.design(family, rounds=rounds, bands=bands)  # type: ignore[arg-type]
    assert found.bands == bands
    closed = family == "square-root"
    exact = square_root_coefficients(bands) if closed else optimised_coefficients(rounds, bands)
    assert found.expected_error(rounds) == pytest.approx(prefix_error(exact, rounds), rel=2e-4)


def test_a_family_is_named_and_each_is_its_own() -> None:
    closed = Strategy.design("square-root", rounds=200, bands=20)
    assert closed == Strategy.rounded(square_root_coefficients(20))
    assert closed.coefficients[:4] == (1024, 512, 384, 320)
    assert closed != Strategy.design("optimised", rounds=200, bands=20)
    assert closed.expected_error(200) == pytest.approx(
        prefix_error(square_root_coefficients(20), 200), rel=1e-3
    )
    with pytest.raises(PlanError, match="'best'"):
        Strategy.design("best", rounds=200, bands=20)  # type: ignore[arg-type]


def test_coefficients_that_round_to_zero_are_bands_no_more() -> None:
    assert Strategy.rounded(np.array([1.0, 0.5, 1e-4, 1e-5])) == Strategy((1024, 512))


def test_a_strategy_is_a_hashable_value_that_its_coefficients_rebuild() -> None:
    strategy = Strategy.rounded(square_root_coefficients(5))
    again = from_json(json.loads(json.dumps(to_json(strategy))), Strategy)
    assert again == strategy
    assert hash(again) == hash(strategy)
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.coefficients = (1,)  # type: ignore[misc]


@pytest.mark.parametrize(
    "coefficients",
    [
        (),
        (0,),
        (-1,),
        (1, 2),
        (3, 0),
        (2, -1),
        (2.0, 1.0),
        (True,),
        (np.int64(3),),
        [3, 2],
        (2**33,),
        (2**31,) * 3,
    ],
)
def test_what_is_no_strategy_is_refused(coefficients: object) -> None:
    with pytest.raises(PlanError, match="coefficients"):
        Strategy(coefficients)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[np.nan], [np.inf, 1], [1, np.nan], [0.5, 1], [0.0], [[1.0]]])
def test_floats_that_are_no_strategy_are_refused(values: list[float]) -> None:
    with pytest.raises(PlanError, match="coefficients"):
        Strategy.rounded(np.array(values))


@pytest.mark.parametrize(("participations", "separation"), [(0, 5), (-1, 5), (2, 0), (1, 0)])
def test_participations_and_separation_have_to_be_positive(
    participations: int, separation: int
) -> None:
    with pytest.raises(PlanError):
        IDENTITY.sensitivity2(participations, separation)


@given(strategies(most=6, largest=1024))
def test_no_sum_up_to_the_largest_overflows_and_one_more_is_refused(strategy: Strategy) -> None:
    stream = BandedStream(strategy, 2)
    largest = strategy.largest_sum
    for _ in range(strategy.bands + 1):
        encoded = stream.encode(np.array([largest, -largest]))
        stream.decode(encoded)
    whole = sum(strategy.coefficients) * largest
    assert encoded.tolist() == [whole, -whole]
    assert whole < 2**62 <= whole + 2 * sum(strategy.coefficients)
    for beyond in (largest + 1, -largest - 1, -(2**63)):
        with pytest.raises(ArgumentError, match="too large") as caught:
            stream.encode(np.array([0, beyond]))
        assert str(beyond) not in str(caught.value)  # the sum is a secret


def test_what_is_refused_leaves_the_stream_as_it_was() -> None:
    stream = BandedStream(Strategy((2, 1)), 2)
    stream.decode(stream.encode(np.array([5, 6])))
    with pytest.raises(ArgumentError):
        stream.encode(np.array([0, 2**62]))
    assert stream.steps == 1
    assert stream.encode(np.array([0, 0])).tolist() == [5, 6]


def test_a_sum_has_the_dtype_and_the_shape_of_the_stream() -> None:
    stream = BandedStream(IDENTITY, 3)
    with pytest.raises(DtypeError, match="float64"):
        stream.encode(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="int32"):
        stream.encode(np.zeros(3, np.int32))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="3"):
        stream.encode(np.zeros(4, np.int64))
    encoded = stream.encode(np.zeros(3, np.int64))
    with pytest.raises(ShapeError):
        stream.decode(encoded[:2])
    with pytest.raises(DtypeError):
        stream.decode(encoded.astype(float))  # type: ignore[arg-type]
    stream.decode(encoded)
    for dimension in (0, -1):
        with pytest.raises(ArgumentError):
            BandedStream(IDENTITY, dimension)


def test_each_encoding_is_decoded_once_before_the_next() -> None:
    stream = BandedStream(Strategy((2, 1)), 1)
    with pytest.raises(ReservationError):
        stream.decode(np.array([1]))
    encoded = stream.encode(np.array([1]))
    with pytest.raises(ReservationError):
        stream.encode(np.array([1]))
    stream.decode(encoded)
    with pytest.raises(ReservationError):
        stream.decode(encoded)


def test_a_sum_that_changes_afterwards_does_not_change_the_stream() -> None:
    stream, total = BandedStream(Strategy((2, 1)), 1), np.array([7])
    encoded = stream.encode(total)
    total[:] = 0
    stream.decode(encoded)
    assert stream.encode(np.array([0])).tolist() == [7]


def test_the_raw_sums_neither_print_nor_travel() -> None:
    stream = BandedStream(Strategy((2, 1)), 1)
    stream.decode(stream.encode(np.array([4711])))
    assert repr(stream) == "BandedStream(bands=2, dimension=1, steps=1)"
    with pytest.raises(PlanError, match="raw sums"):
        pickle.dumps(stream)


def test_a_new_stream_is_a_new_block_of_the_matrix() -> None:
    """Nothing of the sums before a restart is left in what is released after it."""
    strategy = Strategy((4, 2, 1))
    lost, fresh = BandedStream(strategy, 2), BandedStream(strategy, 2)
    lost.decode(lost.encode(np.array([9, 9])))
    total = np.array([1, -1])
    assert fresh.encode(total).tolist() == (4 * total).tolist()
    assert isqrt(strategy.sensitivity2(1, 1)) == 4
