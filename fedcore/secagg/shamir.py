"""Any t of k holders rebuild a secret, fewer learn nothing of it: Shamir's shares in NumPy.

The field is F_p with p = 2³¹ − 1, so that a product fits a 64-bit word and two folds reduce it. A
32-byte secret is an integer of 9 limbs of 30 bits, each shared by a polynomial of its own; all
holders and limbs, and in reconstruction all secrets, are computed at once.

To share a secret, nothing that depends on it is looked up in a table, branched on or divided: on
some processors a division takes longer for some numbers than for others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedcore.entropy import Entropy
from fedcore.errors import ArgumentError, DtypeError, ShapeError, ShareError

__all__ = [
    "LIMBS",
    "PRIME",
    "SHARE_BYTES",
    "agreeing",
    "combine",
    "parse_shares",
    "share",
    "weights",
]

PRIME = 2**31 - 1
"""The modulus of the field, a Mersenne prime: 2³¹ = 1 in it."""

LIMBS = 9
"""The limbs of a secret, and so of its share."""

SHARE_BYTES = 4 * LIMBS
"""The bytes of one share of one secret."""

_SECRET_BYTES = 32
_LIMB_BITS = 30

_Field: TypeAlias = npt.NDArray[np.uint64]


def share(
    secrets: Sequence[bytes], *, threshold: int, points: npt.NDArray[np.integer], entropy: Entropy
) -> npt.NDArray[np.uint32]:
    """Each holder's shares of `secrets`, S of 32 bytes: shape (k, 9 S), uint32, limbs below p.

    `points`: shape (k,), the holders' x-coordinates, distinct and between 1 and p − 1. Row h is the
    values at `points[h]` of one polynomial of degree `threshold` − 1 for every limb, the limbs of
    the first secret first, its least significant first.

    Coefficients are little-endian words of `entropy` with the top bit cleared, save those equal to
    p. In their order they fill the matrix (degree 1 … threshold − 1) × (limb) row by row. A call of
    `entropy.token` asks for exactly the words still missing, 4 bytes a word; once none is missing
    there is no call.

    Raises: ArgumentError, ShapeError, DtypeError, ShareError.
    Source: Shamir, "How to share a secret", 1979.
    """
    x = _checked_points(points, ndim=1)
    _check_deal(secrets, threshold, len(x))
    constant = _limbs_of(secrets)
    drawn = _drawn((threshold - 1) * len(constant), entropy)
    values = np.zeros((len(x), len(constant)), np.uint64)
    for coefficients in drawn.reshape(threshold - 1, len(constant))[::-1]:
        values = _reduced((values + coefficients) * x[:, np.newaxis])
    return _reduced(values + constant).astype(np.uint32)


def weights(points: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """The Lagrange weights at 0 of each row of `points`: shape (m, t) to (m, t), uint64, below p.

    A polynomial of degree below t has the value Σ_j weights[i, j] · f(points[i, j]) at 0.
    Raises: ShapeError, DtypeError, ShareError.

    >>> weights(np.array([[1, 2]])).tolist() == [[2, PRIME - 1]]
    True
    """
    x = _checked_points(points, ndim=2)
    product = np.ones((len(x), 1), np.uint64)
    denominator = np.ones_like(x)
    for j, column in enumerate(x.T[:, :, np.newaxis]):
        product = _reduced(product * column)
        # Where x_l meets itself stands x_l: `product` has one factor more than the numerator.
        difference = column + (PRIME - x)
        difference[:, j] = x[:, j]
        denominator = _reduced(denominator * difference)
    return _reduced(product * _inverse(denominator))


def combine(shares: npt.NDArray[np.uint32], points: npt.NDArray[np.integer]) -> list[bytes | None]:
    """The m secrets of which `shares` (m, t, 9), uint32, are the values at `points` (m, t).

    None stands where no secret of 32 bytes comes out: a share of that one is wrong or of another
    secret. The other way round, 32 bytes may come out of wrong shares: compare with a commitment.
    Raises: ShapeError, DtypeError, and ShareError if limbs are p or more, or points repeat.

    >>> from fedcore.entropy import SystemEntropy
    >>> x = np.array([1, 2, 5])
    >>> dealt = share([b"0123456789abcdef" * 2], threshold=2, points=x, entropy=SystemEntropy())
    >>> combine(dealt[np.newaxis, 1:], x[np.newaxis, 1:])
    [b'0123456789abcdef0123456789abcdef']
    """
    if shares.dtype != np.uint32:
        raise _dtype_error("shares", shares, "uint32")
    if shares.shape != (*points.shape, LIMBS):
        raise ShapeError(
            f"shares of shape {shares.shape} do not go with points of shape {points.shape}",
            why=f"every point has the {LIMBS} limbs of one share",
            fix=f"pass shares of shape (m, t, {LIMBS}) and points of shape (m, t)",
        )
    _check_limbs(shares, "a share of secret")
    factors = weights(points)[:, :, np.newaxis]
    limbs = _reduced(_folded(shares * factors).sum(axis=1))
    return [_secret_of(row) for row in limbs.tolist()]


def agreeing(
    shares: npt.NDArray[np.uint32], points: npt.NDArray[np.integer], *, threshold: int
) -> npt.NDArray[np.intp]:
    """The places, ascending and at least t, of shares (m, 9) at `points` (m,) that agree.

    Of m shares up to (m − t) / 2 may be wrong and are found; if more are, the places mean nothing.
    Source: Welch and Berlekamp, US patent 4,633,470: polynomials E ≠ 0 of degree e and Q of degree
    below t + e with Q(x) = y · E(x) at every point; E vanishes where y is wrong. The limbs are
    first added up with weights drawn from all shares, so that one wrong limb is enough.
    Raises: ShapeError, DtypeError, ShareError.

    >>> from fedcore.entropy import SystemEntropy
    >>> x = np.arange(1, 8)
    >>> (dealt,) = [share([bytes(32)], threshold=3, points=x, entropy=SystemEntropy())]
    >>> dealt[[1, 4], 7] ^= 1
    >>> agreeing(dealt, x, threshold=3)
    array([0, 2, 3, 5, 6])
    """
    x = _checked_points(points, ndim=1)
    _check_limbs(shares, "a share")
    spread = hashlib.sha256(shares.tobytes()).digest() + hashlib.sha256(x.tobytes()).digest()
    mixing = np.frombuffer(spread, "<u4")[:LIMBS].astype(np.uint64) & PRIME
    y = _reduced(_reduced(shares * mixing).sum(axis=1))
    errors = (len(x) - threshold) // 2
    powers = np.ones((len(x), threshold + errors), np.uint64)
    for degree in range(1, threshold + errors):
        powers[:, degree] = _reduced(powers[:, degree - 1] * x)
    negative = PRIME - y
    right = _reduced(negative[:, np.newaxis] * powers[:, : errors + 1])
    solution = _null_vector(np.concatenate([powers, right], axis=1))
    if solution is None:
        return np.arange(len(x))
    locator = solution[threshold + errors :]
    values = _reduced(_reduced(powers[:, : errors + 1] * locator).sum(axis=1))
    return np.flatnonzero(values)


def parse_shares(data: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """The limbs of m shares from 36 bytes each, little-endian: shape (m, 9), uint32.

    Raises: ShareError, which names the first bad one by its place.
    """
    for place, one in enumerate(data):
        if len(one) != SHARE_BYTES:
            raise ShareError(
                f"share {place} has {len(one)} bytes",
                why=f"a share is {LIMBS} words of 4 bytes",
                fix="ask its holder again; nothing can be rebuilt from it",
            )
    limbs = np.frombuffer(b"".join(data), "<u4").astype(np.uint32).reshape(-1, LIMBS)
    _check_limbs(limbs, "share")
    return limbs


def _folded(values: _Field) -> _Field:
    """Values below 2⁶⁴ congruent to `values` and below 2³¹ + values / 2³¹, for 2³¹ = 1."""
    return (values & PRIME) + (values >> 31)


def _reduced(values: _Field) -> _Field:
    """`values`, anything below 2⁶⁴, modulo p."""
    below = _folded(_folded(values))  # at most p + 5
    return np.minimum(below, below - PRIME)  # below p the difference wraps round to a large number


def _inverse(values: _Field) -> _Field:
    """`values` to the power of p − 2, which is their inverse by Fermat's little theorem."""
    power = values
    for bit in f"{PRIME - 2:b}"[1:]:
        power = _reduced(power * power)
        if bit == "1":
            power = _reduced(power * values)
    return power


def _null_vector(matrix: _Field) -> _Field | None:
    """A vector other than 0 that `matrix` takes to 0; None if its columns are independent."""
    columns = matrix.shape[1]
    pivots: list[int] = []
    for column in range(columns):
        row = len(pivots)
        candidates = row + np.flatnonzero(matrix[row:, column])
        if not len(candidates):
            # Free, and all before it are pivots: set it to 1 and read the others off.
            vector = np.zeros(columns, np.uint64)
            vector[column] = 1
            vector[pivots] = _reduced(PRIME - matrix[:row, column])
            return vector
        matrix[[row, candidates[0]]] = matrix[[candidates[0], row]]
        rest = matrix[:, column:]  # to the left of it the pivot's row holds zeros
        rest[row] = _reduced(rest[row] * _inverse(rest[row, :1]))
        factors = PRIME - rest[:, :1]
        factors[row] = 0
        rest += _reduced(factors * rest[row])
        rest[:] = np.minimum(rest, rest - PRIME)
        pivots.append(column)
    return None


def _limbs_of(secrets: Sequence[bytes]) -> _Field:
    numbers = [int.from_bytes(secret, "little") for secret in secrets]
    mask = 2**_LIMB_BITS - 1
    limbs = [number >> (_LIMB_BITS * place) & mask for number in numbers for place in range(LIMBS)]
    return np.array(limbs, np.uint64)


def _secret_of(limbs: Sequence[int]) -> bytes | None:
    if any(limb >> _LIMB_BITS for limb in limbs):
        return None
    number = sum(limb << (_LIMB_BITS * place) for place, limb in enumerate(limbs))
    return None if number >> (8 * _SECRET_BYTES) else number.to_bytes(_SECRET_BYTES, "little")


def _drawn(count: int, entropy: Entropy) -> _Field:
    """`count` uniform elements of the field, by rejection: a remainder would favour 0."""
    accepted = np.empty(0, np.uint32)
    while missing := count - len(accepted):
        words = np.frombuffer(entropy.token(4 * missing), "<u4") & PRIME
        accepted = np.concatenate([accepted, words[words != PRIME]])
    return accepted.astype(np.uint64)


def _check_deal(secrets: Sequence[bytes], threshold: int, holders: int) -> None:
    if not 1 <= threshold <= holders:
        raise ArgumentError(
            f"a threshold of {threshold} for {holders} holders",
            why="no share at all would rebuild the secret, or not even all shares would",
            fix=f"take a threshold from 1 to {holders}",
        )
    for secret in secrets:
        if len(secret) != _SECRET_BYTES:
            raise ArgumentError(
                f"a secret of {len(secret)} bytes was to be shared",
                why=f"{LIMBS} limbs hold {_SECRET_BYTES} bytes",
                fix=f"derive {_SECRET_BYTES} bytes from it, or share those it is derived from",
            )


def _checked_points(points: npt.NDArray[np.integer], *, ndim: int) -> _Field:
    if points.dtype.kind not in "iu":
        raise _dtype_error("points", points, "integers")
    if points.ndim != ndim or not points.shape[-1]:
        raise ShapeError(
            f"points have shape {points.shape}",
            why="every secret is rebuilt from the same number of shares, at least one",
            fix=f"pass an array of {ndim} dimensions",
        )
    if ((points < 1) | (points >= PRIME)).any():
        raise ShareError(
            "a point is not an element of the field, or zero",
            why="the value at zero is the secret itself",
            fix=f"take points from 1 to {PRIME - 1}: the holder's index and one",
        )
    if not np.diff(np.sort(points, axis=-1), axis=-1).all():
        raise ShareError(
            "two shares of one secret have the same point",
            why="the same value twice counts once",
            fix="give every holder a point of its own",
        )
    return points.astype(np.uint64)


def _dtype_error(name: str, array: npt.NDArray[Any], expected: str) -> DtypeError:
    return DtypeError(
        f"{name} have dtype {array.dtype}",
        why="arithmetic in the field is exact",
        fix=f"pass an array of {expected}",
    )


def _check_limbs(shares: npt.NDArray[np.uint32], name: str) -> None:
    if len(bad := np.argwhere(shares >= PRIME)):
        raise ShareError(
            f"{name} {bad[0, 0]} is not in the field",
            why=f"a limb is {PRIME} or more, so that one element had two encodings",
            fix="hold it against the hash that its sharer sent",
        )
