"""Everyone computes the degree, window and threshold of a session: here, in exact integers.

A client that took these numbers from the server would let it choose its own protection. They follow
from the roster's size n, the fractions γ of colluding and δ of lost clients, and the exponents σ
and η: privacy fails with a probability of at most 2^−σ, availability with at most 2^−η.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import lru_cache
from itertools import count, islice
from math import comb
from typing import NamedTuple

from fedcore.errors import ParameterError

__all__ = [
    "LARGEST_EXPONENT",
    "LARGEST_SESSION",
    "Parameters",
    "Profile",
    "RingParameters",
    "parameters",
    "require_exponents",
    "require_profile",
    "require_share",
    "ring_parameters",
]

LARGEST_SESSION = 1024
LARGEST_EXPONENT = 1000
_LARGEST_COMPLETE = 64
_LARGEST_TABLE = 2**20
_SIGMA_WITHOUT_BEACON = 100


class Profile(IntEnum):
    """Which server a session withstands, and so what may be said of it.

    SEMI_HONEST: one that follows the protocol and studies all it sees. May be advertised as
    "SecAgg+ (Bell et al. 2020), semi-honest".

    MALICIOUS: one that may send anything to anyone. May be advertised as "designed for a malicious
    server; argument unreviewed", never as proven, and only if the server does not control who
    issues certificates.

    >>> print(Profile.MALICIOUS.claim)
    designed for a malicious server; argument unreviewed
    """

    SEMI_HONEST = 0
    MALICIOUS = 1

    @property
    def claim(self) -> str:
        """The words of the advertisement, for whatever tells people about a session."""
        if self is Profile.SEMI_HONEST:
            return "SecAgg+ (Bell et al. 2020), semi-honest"
        return "designed for a malicious server; argument unreviewed"


@dataclass(frozen=True)
class Parameters:
    """What a session of n clients must hold to; counts of clients, except `complete`.

    `corrupt`: c, the clients that may collude with the server.
    `dropouts`: d₀, the clients that may be lost, at any stage.
    `minimum_survivors`: u_min = n − d₀, the smallest set whose sum is opened, at least the quorum.
    `quorum`: T_sig, the signatures that a survivor set needs: two quorums share an honest signer.
    `degree`: k, the neighbours of each client.
    `window`: v, the survivors that any k/2 consecutive ring positions must hold; 0 is no check.
    `threshold`: t, the shares that rebuild a secret.
    `complete`: whether everyone is everyone's neighbour, which has no statistical error.
    """

    n: int
    corrupt: int
    dropouts: int
    minimum_survivors: int
    quorum: int
    degree: int
    window: int
    threshold: int
    complete: bool


class RingParameters(NamedTuple):
    """The smallest ring that will do, and the thresholds that serve on it, both ends included."""

    degree: int
    window: int
    t_min: int
    t_max: int


def parameters(
    n: int,
    *,
    profile: Profile,
    gamma: Fraction | int,
    delta: Fraction | int,
    sigma: int,
    eta: int,
    beacon: bool,
) -> Parameters:
    """The parameters of a session of n clients, of whom a share γ colludes and δ may be lost.

    `beacon`: whether an external pulse, issued after the roster was published, seeds the ring.
    Without one a server tries rosters until a ring suits it: 2⁶⁰ trials at σ = 100 leave 2⁻⁴⁰.
    From three clients on at least one is taken to be corrupt. The threshold is the middle of its
    range. Takes 0.4 ms for n = 1024, γ = δ = 0.1, 5 ms at worst; remembered.

    Raises: ParameterError. Source: Bell et al. 2020 for the semi-honest ring; the window of the
    malicious one is ours, and the argument for it unreviewed.

    >>> tenth = Fraction(1, 10)
    >>> few = parameters(
    ...     8, profile=Profile.MALICIOUS, gamma=tenth, delta=tenth, sigma=100, eta=30, beacon=False
    ... )
    >>> few.complete, few.degree, few.corrupt, few.threshold, few.quorum
    (True, 7, 1, 5, 5)
    """
    require_share("gamma", gamma)
    require_share("delta", delta)
    _require_integer(
        "n",
        n,
        2,
        LARGEST_SESSION,
        below="a session needs two clients, as the sum over one is its vector",
        beyond="add the sums of several sessions for more",
    )
    require_profile(profile)
    require_exponents(sigma, eta)
    if profile is Profile.MALICIOUS and not beacon and sigma < _SIGMA_WITHOUT_BEACON:
        raise ParameterError(
            f"sigma = {sigma} is too weak for a malicious server when no beacon seeds the ring",
            why="the server can try rosters offline until a ring suits it",
            fix=f"use sigma = {_SIGMA_WITHOUT_BEACON}, or name a beacon",
        )
    if 2 * delta >= 1 - gamma:
        raise ParameterError(
            f"delta = {delta} is too much beside gamma = {gamma}",
            why="the survivors would be too few for a quorum: two quorums share an honest signer",
            fix=f"lower delta to less than {Fraction(1 - gamma, 2)!r}",
        )
    corrupt = max(1 if n >= 3 else 0, int(gamma * n))
    dropouts = int(delta * n)
    # Two sets of this size have more than c members in common, so one of them is honest.
    quorum = (n + corrupt) // 2 + 1
    _require_room(n, corrupt, dropouts, quorum)
    ring = None
    if n > _LARGEST_COMPLETE:
        ring = _smallest_ring(n, corrupt, dropouts, sigma, eta, profile)
    k, v, t_min, t_max = ring or RingParameters(n - 1, 0, corrupt + 1, n - 1 - dropouts)
    return Parameters(
        n=n,
        corrupt=corrupt,
        dropouts=dropouts,
        minimum_survivors=n - dropouts,
        quorum=quorum,
        degree=k,
        window=v,
        threshold=(t_min + t_max + 1) // 2,
        complete=ring is None,
    )


def ring_parameters(
    n: int, *, corrupt: int, dropouts: int, sigma: int, eta: int, profile: Profile
) -> RingParameters | None:
    """The smallest even degree below n − 1 that will do, or None: then take the complete graph.

    For any n from 2 on, so that tables can show more clients than a session may have.

    Raises: ParameterError.

    >>> ring_parameters(
    ...     1000, corrupt=100, dropouts=100, sigma=100, eta=30, profile=Profile.MALICIOUS
    ... )
    RingParameters(degree=158, window=49, t_min=66, t_max=114)
    """
    _require_integer("n", n, 2, _LARGEST_TABLE)
    _require_integer("corrupt", corrupt, 0, n - 1)
    _require_integer("dropouts", dropouts, 0, n - 1)
    require_profile(profile)
    require_exponents(sigma, eta)
    return _smallest_ring(n, corrupt, dropouts, sigma, eta, profile)


@lru_cache(maxsize=256)
def _smallest_ring(
    n: int, corrupt: int, dropouts: int, sigma: int, eta: int, profile: Profile
) -> RingParameters | None:
    privacy = n << (sigma + 1)
    availability = n << (eta + (profile is Profile.MALICIOUS))
    if profile is Profile.MALICIOUS:
        windows = _checked_windows(n, corrupt, dropouts, privacy, availability)
    else:
        windows = _unchecked_windows(n, corrupt + dropouts, privacy)
    corrupt_neighbours = islice(_rare_counts(n - 1, corrupt, privacy), 2, None, 2)
    lost_neighbours = islice(_rare_counts(n - 1, dropouts, availability), 2, None, 2)
    candidates = zip(range(2, n - 1, 2), windows, corrupt_neighbours, lost_neighbours, strict=False)
    for degree, window, t_min, lost in candidates:
        t_max = degree + 1 - lost
        if window is not None and t_min <= t_max:
            return RingParameters(degree, window, t_min, t_max)
    return None


def _rare_counts(population: int, marked: int, factor: int) -> Iterator[int]:
    """For m = 0, 1, 2 …: the least a with factor · P[m drawn hold a marked or more] ≤ 1.

    With H the number of m-subsets that hold a or more, the test is factor · H ≤ C(population, m),
    in integers. As (m+1) · H(m+1, a) = (population − m) · H(m, a) + (marked − a + 1) · (m-subsets
    that hold exactly a − 1), and as a never falls when m grows, the whole scan is linear.
    """
    unmarked = population - marked
    a, at_least, just_below, total = 1, 0, 1, 1
    for m in range(population + 1):
        while factor * at_least > total:
            # From the term before, unless that is 0: a worst case of 5 ms at n = 1024, not of 20.
            just_below = (
                just_below * (marked - a + 1) * (m - a + 1) // (a * (unmarked - m + a))
                if just_below
                else comb(marked, a) * comb(unmarked, m - a)
            )
            at_least -= just_below
            a += 1
        yield a
        at_least = ((population - m) * at_least + (marked - a + 1) * just_below) // (m + 1)
        just_below = just_below * (unmarked - (m - a + 1)) // (m - a + 2)
        total = total * (population - m) // (m + 1)


def _checked_windows(
    n: int, corrupt: int, dropouts: int, privacy: int, availability: int
) -> Iterator[int | None]:
    """For w = 1, 2 …: the least v that w positions in a row do not hold in corrupt clients.

    None where the survivors among them would be fewer than v too often. Who finds v survivors in
    every window knows an honest one in each. So consecutive honest survivors are neighbours,
    whichever clients the server says were lost.
    """
    least_v = islice(_rare_counts(n, corrupt, privacy), 1, None)
    least_lost = islice(_rare_counts(n, dropouts, availability), 1, None)
    for w, v, lost in zip(count(1), least_v, least_lost, strict=False):
        yield v if w - lost + 1 >= v else None


def _unchecked_windows(n: int, missing: int, privacy: int) -> Iterator[int | None]:
    """For w = 1, 2 …: 0 where w positions in a row are hardly ever all corrupt or lost, else None.

    Here the drop-outs do not depend on the ring, so no client has to check a window.
    """
    all_missing = all_ways = 1
    while True:
        all_missing, all_ways = all_missing * missing, all_ways * n
        yield 0 if privacy * all_missing <= all_ways else None


def _require_room(n: int, corrupt: int, dropouts: int, quorum: int) -> None:
    """Refuse a session that not even the complete graph can hold."""
    most_lost = min(n - 2 - corrupt, n - quorum)
    if dropouts <= most_lost:
        return
    raise ParameterError(
        f"{n} clients cannot lose {dropouts} when {corrupt} may be corrupt",
        why=f"a threshold above {corrupt} has to be met by the {n - 1 - dropouts} peers that a "
        f"client keeps, and a quorum of {quorum} by the {n - dropouts} survivors",
        fix=f"lower delta to {_written(most_lost, n)}"
        if most_lost >= 0
        else f"lower gamma to {_written(n - 2, n)}",
    )


def _written(part: int, whole: int) -> str:
    """A share as one writes it in Python."""
    return repr(Fraction(part, whole)) if part else "0"


def require_share(name: str, value: Fraction | int) -> None:
    """Raises: ParameterError unless `value`, called `name`, is a Fraction in [0, 1), or 0."""
    exact = isinstance(value, Fraction) or type(value) is int
    if not exact or not 0 <= value < 1:
        raise ParameterError(
            f"{name} = {value!r} is not an exact fraction from 0 to below 1",
            why="every party rounds the same products down, so none may be inexact",
            fix=f"use one like {name}=Fraction(1, 5), or {name}=0",
        )


def require_profile(profile: Profile) -> None:
    """Raises: ParameterError for anything but a Profile."""
    if not isinstance(profile, Profile):
        raise ParameterError(
            f"{profile!r} is not a profile",
            why="a number that is none of the profiles must not pass for the weakest",
            fix="use Profile.MALICIOUS or Profile.SEMI_HONEST",
        )


def require_exponents(sigma: int, eta: int) -> None:
    """Raises: ParameterError unless σ and η are plain ints from 1 to `LARGEST_EXPONENT`."""
    _require_integer("sigma", sigma, 1, LARGEST_EXPONENT)
    _require_integer("eta", eta, 1, LARGEST_EXPONENT)


def _require_integer(
    name: str, value: int, low: int, high: int, *, below: str = "", beyond: str = ""
) -> None:
    """`below`, `beyond`: what else to say of a value that is too small or too large."""
    whole = type(value) is int  # NumPy's integers overflow, and True is no number of clients
    if whole and low <= value <= high:
        return
    hint = "" if not whole else below if value < low else beyond
    raise ParameterError(
        f"{name} = {value!r} is {'out of range' if whole else 'not a plain int'}",
        why=f"it is a whole number from {low} to {high}",
        fix=f"use a plain int from {low} to {high}" + (hint and f"; {hint}"),
    )
