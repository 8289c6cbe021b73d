"""Shares against plain Python integers, and what fewer of them than the threshold say: nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.entropy import SeededEntropy
from fedcore.errors import ArgumentError, DtypeError, FedcoreError, ShapeError, ShareError
from fedcore.secagg.shamir import (
    LIMBS,
    PRIME,
    SHARE_BYTES,
    agreeing,
    combine,
    parse_shares,
    share,
    weights,
)

SECRET = bytes(range(200, 232))
SECRETS = st.binary(min_size=32, max_size=32)
POINTS = st.integers(1, 1024) | st.integers(1, PRIME - 1) | st.integers(PRIME - 9, PRIME - 1)


class Scripted:
    """A source that gives the words it was told to give, and notes what it was asked for."""

    def __init__(self, words: list[int]) -> None:
        self.data, self.asked = b"".join(word.to_bytes(4, "little") for word in words), []

    def token(self, size: int) -> bytes:
        self.asked.append(size)
        given, self.data = self.data[:size], self.data[size:]
        assert len(given) == size
        return given


def limbs_of(secret: bytes) -> list[int]:
    number = int.from_bytes(secret, "little")
    return [number // 2 ** (30 * place) % 2**30 for place in range(LIMBS)]


def value_at(coefficients: list[int], x: int) -> int:
    return sum(c * pow(x, degree, PRIME) for degree, c in enumerate(coefficients)) % PRIME


def interpolated(points: list[tuple[int, int]]) -> list[int]:
    """The coefficients, constant first, of the polynomial through `points`."""
    total = [0] * len(points)
    for x, y in points:
        basis, scale = [1], y
        for other, _ in points:
            if other != x:
                # times (X - other)
                basis = [
                    (low - other * high) % PRIME
                    for low, high in zip([0, *basis], [*basis, 0], strict=True)
                ]
                scale = scale * pow(x - other, -1, PRIME) % PRIME
        total = [(t + scale * b) % PRIME for t, b in zip(total, basis, strict=True)]
    return total


@st.composite
def deals(draw: st.DrawFn) -> tuple[list[bytes], int, list[int], bytes]:
    """Secrets, a threshold, points and the seed of the coefficients."""
    points = draw(st.lists(POINTS, min_size=1, max_size=9, unique=True))
    threshold = draw(st.integers(1, len(points)))
    return draw(st.lists(SECRETS, max_size=3)), threshold, points, draw(st.binary(max_size=4))


def dealt(secrets: list[bytes], threshold: int, points: list[int], seed: bytes = b"") -> Any:
    entropy = SeededEntropy(seed)
    return share(secrets, threshold=threshold, points=np.array(points), entropy=entropy)


@given(deals(), st.randoms(use_true_random=False))
def test_any_shares_as_many_as_the_threshold_rebuild_every_secret(deal: Any, order: Any) -> None:
    secrets, threshold, points, seed = deal
    limbs = dealt(secrets, threshold, points, seed)
    assert limbs.shape == (len(points), LIMBS * len(secrets))
    assert limbs.dtype == np.uint32
    chosen = order.sample(range(len(points)), threshold)
    x = np.tile([points[h] for h in chosen], (len(secrets), 1))
    halves = limbs[chosen].reshape(threshold, len(secrets), LIMBS).swapaxes(0, 1)
    assert combine(halves, x) == secrets


@given(deals())
def test_shares_are_the_values_of_polynomials_in_plain_integers(deal: Any) -> None:
    secrets, threshold, points, seed = deal
    source, width = SeededEntropy(seed), LIMBS * len(secrets)
    drawn: list[int] = []
    while len(drawn) < width * (threshold - 1):
        data = source.token(4 * (width * (threshold - 1) - len(drawn)))
        words = [int.from_bytes(data[i : i + 4], "little") % 2**31 for i in range(0, len(data), 4)]
        drawn += [word for word in words if word != PRIME]
    constant = [limb for secret in secrets for limb in limbs_of(secret)]
    expected = [
        [value_at([constant[column], *drawn[column::width]], x) for column in range(width)]
        for x in points
    ]
    assert dealt(secrets, threshold, points, seed).tolist() == expected


@given(st.lists(SECRETS, min_size=2, max_size=2), st.data())
def test_fewer_shares_than_the_threshold_fit_every_secret_equally(
    secrets: list[bytes], data: st.DataObject
) -> None:
    """For any other secret exactly one choice of coefficients gives the same t - 1 shares.

    Coefficients are uniform, so these shares are as likely for the one secret as for the other.
    """
    secret, other = secrets
    points = data.draw(st.lists(POINTS, min_size=1, max_size=5, unique=True))
    threshold = len(points) + 1
    holders = [*points, next(x for x in range(1, 9) if x not in points)]
    seen = dealt([secret], threshold, holders)[:-1]
    polynomials = [
        interpolated([(0, limb), *zip(points, seen[:, place].tolist(), strict=True)])
        for place, limb in enumerate(limbs_of(other))
    ]
    words = [polynomial[degree] for degree in range(1, threshold) for polynomial in polynomials]
    again = share([other], threshold=threshold, points=np.array(holders), entropy=Scripted(words))
    assert np.array_equal(again[:-1], seen)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32], ids=["zeros", "ones"])
def test_a_share_below_the_threshold_is_uniform_whatever_the_secret(secret: bytes) -> None:
    """Chi-square of the highest and of the lowest 4 bits of 9,000 limbs: 15 degrees of freedom.

    A uniform source exceeds 56.5 once in a million; the seed is fixed, so this cannot flicker.
    """
    limbs = np.concatenate(
        [
            dealt([secret] * 2, threshold, [1, 2, 3, 4, 5], bytes([threshold, n]))[0]
            for threshold in (2, 5)
            for n in range(250)
        ]
    )
    assert len(limbs) == 9000
    for bits in (limbs >> 27, limbs & 15):
        counts = np.bincount(bits, minlength=16)
        expected = len(limbs) / 16
        assert ((counts - expected) ** 2 / expected).sum() < 56.5


def test_words_equal_to_the_prime_are_drawn_again() -> None:
    count = LIMBS * 2
    source = Scripted([PRIME, 2**32 - 1, *range(1, count - 1), PRIME, count - 1, count])
    limbs = share([bytes(32)], threshold=3, points=np.array([1, 2, 3]), entropy=source)
    assert source.asked == [4 * count, 4 * 2, 4 * 1]
    coefficients = np.arange(1, count + 1).reshape(2, LIMBS)
    assert limbs[1].tolist() == (2 * coefficients[0] + 4 * coefficients[1]).tolist()


def test_the_top_bit_of_a_word_is_cleared() -> None:
    low, high = (
        share([bytes(32)], threshold=2, points=np.array([1, 2]), entropy=Scripted(words))
        for words in ([7] * LIMBS, [7 + 2**31] * LIMBS)
    )
    assert np.array_equal(low, high)


def test_a_threshold_of_one_gives_everyone_the_secret_and_draws_nothing() -> None:
    secret, source = bytes(range(32)), Scripted([])
    limbs = share([secret], threshold=1, points=np.array([5, 9]), entropy=source)
    assert limbs.tolist() == [limbs_of(secret)] * 2
    assert source.asked == []


@given(st.lists(st.lists(POINTS, min_size=4, max_size=4, unique=True), min_size=1, max_size=4))
def test_weights_are_those_of_lagrange_in_plain_integers(points: list[list[int]]) -> None:
    def weight(row: list[int], x: int) -> int:
        result = 1
        for other in row:
            if other != x:
                result = result * other * pow(other - x, -1, PRIME) % PRIME
        return result

    found = weights(np.array(points, np.uint32))
    assert found.dtype == np.uint64
    assert found.tolist() == [[weight(row, x) for x in row] for row in points]


@given(st.lists(st.tuples(SECRETS, st.permutations(range(1, 8))), max_size=4))
def test_a_batch_is_rebuilt_as_its_secrets_one_by_one(cases: list[tuple[bytes, list[int]]]) -> None:
    threshold = 4
    points = np.array([order[:threshold] for _, order in cases], int).reshape(-1, threshold)
    shares = np.array(
        [dealt([secret], threshold, order)[:threshold] for secret, order in cases], np.uint32
    ).reshape(-1, threshold, LIMBS)
    single = [combine(s[np.newaxis], x[np.newaxis]) for s, x in zip(shares, points, strict=True)]
    assert combine(shares, points) == list(itertools.chain(*single))
    assert combine(shares, points) == [secret for secret, _ in cases]


def test_more_shares_than_the_threshold_rebuild_the_same_secret() -> None:
    secret, points = bytes(range(32)), np.arange(1, 159)
    limbs = dealt([secret], 90, points.tolist())
    assert combine(limbs[np.newaxis], points[np.newaxis]) == [secret]


def test_fewer_shares_than_the_threshold_do_not_rebuild_the_secret() -> None:
    secret, points = bytes(range(32)), np.arange(1, 159)
    limbs = dealt([secret], 90, points.tolist())
    assert combine(limbs[np.newaxis, :89], points[np.newaxis, :89]) != [secret]


@pytest.mark.parametrize(
    ("place", "limb", "fits"),
    [
        (0, 2**30 - 1, True),
        (0, 2**30, False),
        (7, PRIME - 1, False),
        (8, 2**16 - 1, True),
        (8, 2**16, False),
    ],
)
def test_limbs_too_large_for_a_secret_spoil_that_secret_alone(
    place: int, limb: int, fits: bool
) -> None:
    shares = np.zeros((3, 1, LIMBS), np.uint32)  # with a threshold of one a share is the secret
    shares[1, 0, place] = limb
    expected = (limb << (30 * place)).to_bytes(32, "little") if fits else None
    assert combine(shares, np.array([[3], [4], [5]])) == [bytes(32), expected, bytes(32)]


@given(st.lists(st.lists(st.integers(0, PRIME - 1), min_size=9, max_size=9), max_size=4))
def test_shares_are_parsed_from_little_endian_words(rows: list[list[int]]) -> None:
    data = [b"".join(limb.to_bytes(4, "little") for limb in row) for row in rows]
    parsed = parse_shares(data)
    assert parsed.dtype == np.uint32
    assert parsed.shape == (len(rows), LIMBS)
    assert parsed.tolist() == rows


@pytest.mark.parametrize("size", [0, SHARE_BYTES - 1, SHARE_BYTES + 1, 2 * SHARE_BYTES])
def test_a_share_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ShareError, match=f"share 1 has {size} bytes"):
        parse_shares([bytes(SHARE_BYTES), bytes(size)])


@pytest.mark.parametrize("limb", [PRIME, PRIME + 1, 2**32 - 1])
@pytest.mark.parametrize("place", range(LIMBS))
def test_limbs_outside_the_field_are_refused(limb: int, place: int) -> None:
    limbs = np.zeros((2, LIMBS), "<u4")
    limbs[1, place] = limb
    with pytest.raises(ShareError, match="share 1 is not in the field"):
        parse_shares([limbs[0].tobytes(), limbs[1].tobytes()])
    with pytest.raises(ShareError, match="secret 1 is not in the field"):
        combine(limbs[:, np.newaxis].astype(np.uint32), np.array([[1], [2]]))


@pytest.mark.parametrize(
    "points",
    [[0, 1, 2], [1, -1, 2], [1, 2, PRIME], [1, 2, PRIME + 1], [1, 2, 2**40], [3, 1, 3]],
)
def test_points_that_are_zero_foreign_or_repeated_are_refused(points: list[int]) -> None:
    with pytest.raises(ShareError) as refused:
        dealt([bytes(32)], 2, points)
    repeated = len(set(points)) < len(points)
    assert repeated or f"from 1 to {PRIME - 1}:" in refused.value.fix
    good = [4, 5, 6]
    with pytest.raises(ShareError):
        weights(np.array([good, points]))
    with pytest.raises(ShareError):
        combine(np.zeros((2, 3, LIMBS), np.uint32), np.array([good, points]))


@pytest.mark.parametrize("largest", [PRIME - 1, PRIME - 2])
def test_the_largest_elements_of_the_field_do_not_overflow_a_word(largest: int) -> None:
    threshold, secret = 20, b"\xff" * 32
    points = np.arange(PRIME - threshold, PRIME, dtype=np.uint64)
    source = Scripted([largest] * (LIMBS * (threshold - 1)))
    limbs = share([secret], threshold=threshold, points=points, entropy=source)
    polynomials = [[limb, *[largest] * (threshold - 1)] for limb in limbs_of(secret)]
    assert limbs.tolist() == [[value_at(p, x) for p in polynomials] for x in points.tolist()]
    assert combine(limbs[np.newaxis], points[np.newaxis]) == [secret]


@pytest.mark.parametrize("threshold", [-1, 0, 4])
def test_a_threshold_outside_the_number_of_holders_is_refused(threshold: int) -> None:
    with pytest.raises(ArgumentError):
        dealt([bytes(32)], threshold, [1, 2, 3])


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secrets_of_another_length_are_refused_without_being_shown(size: int) -> None:
    secret = b"\xab" * size
    with pytest.raises(ArgumentError) as refused:
        dealt([bytes(32), secret], 2, [1, 2, 3])
    assert "abab" not in str(refused.value) and repr(secret) not in str(refused.value)


@pytest.mark.parametrize(
    ("shares", "points", "error"),
    [
        (np.zeros((1, 2, LIMBS), np.int64), np.array([[1, 2]]), DtypeError),
        (np.zeros((1, 2, LIMBS), np.uint32), np.array([[1.0, 2.0]]), DtypeError),
        (np.zeros((1, 2, LIMBS - 1), np.uint32), np.array([[1, 2]]), ShapeError),
        (np.zeros((2, 2, LIMBS), np.uint32), np.array([[1, 2]]), ShapeError),
        (np.zeros((2, LIMBS), np.uint32), np.array([1, 2]), ShapeError),
        (np.zeros((1, 0, LIMBS), np.uint32), np.zeros((1, 0), int), ShapeError),
    ],
)
def test_arrays_of_another_shape_or_dtype_are_refused(
    shares: Any, points: Any, error: type[FedcoreError]
) -> None:
    with pytest.raises(error):
        combine(shares, points)


@pytest.mark.parametrize(("points", "error"), [([[1, 2]], ShapeError), ([1.5, 2.0], DtypeError)])
def test_points_of_holders_are_one_row_of_integers(points: Any, error: type[FedcoreError]) -> None:
    with pytest.raises(error):
        dealt([bytes(32)], 1, points)


@given(st.data())
def test_as_many_wrong_shares_as_can_be_told_apart_are_left_out(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 24), label="shares")
    threshold = data.draw(st.integers(1, count), label="threshold")
    x = np.array(
        data.draw(st.lists(st.integers(1, PRIME - 1), min_size=count, max_size=count, unique=True))
    )
    shares = share([SECRET], threshold=threshold, points=x, entropy=SeededEntropy(b"wb"))
    errors = data.draw(st.integers(0, (count - threshold) // 2), label="wrong")
    wrong = data.draw(st.permutations(range(count)), label="places")[:errors]
    for place in wrong:
        limb = data.draw(st.integers(0, LIMBS - 1))
        shift = data.draw(st.integers(1, PRIME - 1))
        shares[place, limb] = (int(shares[place, limb]) + shift) % PRIME
    good = agreeing(shares, x, threshold=threshold)
    assert len(good) >= threshold and not set(good.tolist()) & set(wrong)
    kept = good[:threshold]
    assert combine(shares[kept][np.newaxis], x[kept][np.newaxis]) == [SECRET]


@pytest.mark.parametrize(("count", "threshold"), [(5, 3), (6, 3), (9, 9), (40, 12), (41, 12)])
def test_more_wrong_shares_than_that_are_no_crash(count: int, threshold: int) -> None:
    rng = np.random.default_rng(count)
    shares = rng.integers(0, PRIME, (count, LIMBS)).astype(np.uint32)
    good = agreeing(shares, np.arange(1, count + 1), threshold=threshold)
    assert len(good) >= threshold


def test_shares_that_agree_are_sought_among_well_formed_ones_only() -> None:
    shares = np.zeros((4, LIMBS), np.uint32)
    with pytest.raises(ShareError):
        agreeing(shares, np.array([1, 2, 2, 3]), threshold=2)
    shares[1, 3] = PRIME
    with pytest.raises(ShareError):
        agreeing(shares, np.arange(1, 5), threshold=2)
