"""What was spent, by two accountants that have to agree: our Rényi curves and dp-accounting's PLD.

Both give upper bounds, so the smaller one is reported. This is the one caller of dp-accounting (the
extra `dp`, versions 0.6): its REPLACE_ONE means two things, and it drops what it cannot compute.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from fedcore.errors import AccountantError, ArgumentError, InstallError
from fedcore.privacy import rdp
from fedcore.privacy.events import (
    RATE_UNIT,
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.units import Adjacency

__all__ = [
    "MOST_BY_PLD",
    "TOO_WIDE",
    "UNRESOLVED",
    "Accountant",
    "Epsilon",
    "account",
    "no_pld",
    "pld_epsilon",
    "reference_rdp_epsilon",
    "require_accountant",
    "why_no_pld",
]

Accountant = Literal["best", "rdp", "pld"]

MOST_BY_PLD = 200.0
"""Beyond this epsilon its grid of losses takes seconds, then more memory than there is."""

TOO_WIDE = f"an epsilon beyond {MOST_BY_PLD:g} is too wide for its grid"
UNRESOLVED = "delta is finer than distributions resolve"

_INTERVAL = 1e-4
_RDP_NAME = "fedcore RDP, orders 2 to 256"
_RDP_VERSION = "1"


@dataclass(frozen=True)
class Epsilon:
    """An epsilon, and all that it takes to check it.

    `rdp` at `order`: by our Rényi curves. `pld`: by dp-accounting, or None, and `without_pld` says
    why. `cross_checked`: the two were held to the distance that was measured between them.
    """

    value: float
    delta: float
    adjacency: Adjacency
    accountant: str
    version: str
    rdp: float
    order: int
    pld: float | None
    without_pld: str
    cross_checked: bool

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {**vars(self), "adjacency": self.adjacency.name}


def account(
    spend: Mapping[Event, int],
    *,
    adjacency: Adjacency,
    delta: float,
    accountant: Accountant = "best",
) -> Epsilon:
    """The epsilon of all events of `spend`, each as often as it says, fixed beforehand.

    `accountant`: "best" for the smaller of two upper bounds, or of one where the other cannot be
    had, which the record says; "rdp" or "pld" for that one alone.

    Raises: AccountantError if no accountant knows the events, or two contradict each other;
    InstallError if "pld" is asked for without the extra `dp`.
    """
    require_accountant(accountant)
    by_rdp, order = rdp.epsilon(rdp.compose(spend, adjacency), delta)
    by_pld, reason = None, "it was not asked for"
    if accountant != "rdp":
        reason = why_no_pld(spend, adjacency)
        if not reason and by_rdp > MOST_BY_PLD:
            reason = TOO_WIDE
        if not reason:
            try:
                by_pld = pld_epsilon(spend, adjacency=adjacency, delta=delta)
            except InstallError as error:
                if accountant == "pld":
                    raise
                reason = error.what
            else:
                if not math.isfinite(by_pld):
                    by_pld, reason = None, UNRESOLVED
    checked = by_pld is not None and _is_measured(spend, delta)
    if by_pld is not None and checked:
        _require_agreement(by_rdp, by_pld)
    if accountant == "pld" and by_pld is None:
        raise no_pld(reason)
    if by_pld is not None and (accountant == "pld" or by_pld <= by_rdp):
        value, name, version = by_pld, "dp-accounting PLD", _version()
    else:
        value, name, version = by_rdp, _RDP_NAME, _RDP_VERSION
    return Epsilon(
        value=value,
        delta=delta,
        adjacency=adjacency,
        accountant=name,
        version=version,
        rdp=by_rdp,
        order=order,
        pld=by_pld,
        without_pld=reason,
        cross_checked=checked,
    )


def require_accountant(accountant: str) -> None:
    """Raises: ArgumentError unless it is "best", "rdp" or "pld"."""
    if accountant not in ("best", "rdp", "pld"):
        raise ArgumentError(
            f"no accountant is called {accountant!r:.40}",
            why="there are two, and the better of them",
            fix='pass "best", "rdp" or "pld"',
        )


def pld_epsilon(
    spend: Mapping[Event, int], *, adjacency: Adjacency, delta: float, interval: float = _INTERVAL
) -> float:
    """The epsilon of `spend` by privacy loss distributions, rounded up to grids of `interval` nats.

    Infinite where delta is below the mass that they cut off, about 1e-15.

    Raises: AccountantError for events that they do not exist for (`why_no_pld`); InstallError.
    """
    rdp.require_delta(delta)
    rdp.require_counts(spend)
    if reason := why_no_pld(spend, adjacency):
        raise no_pld(reason)
    accounting = _dp_accounting()
    from dp_accounting import pld

    accountant = pld.PLDAccountant(
        _relation(accounting, adjacency), value_discretization_interval=interval
    )
    with _watched():
        for event, count in spend.items():
            if count:
                # Its REPLACE_ONE doubles the distance itself: noise counts in clipping norms.
                accountant.compose(_translated(accounting, event, distance=1), count)
        return float(accountant.get_epsilon(delta))


def reference_rdp_epsilon(
    spend: Mapping[Event, int],
    *,
    adjacency: Adjacency,
    delta: float,
    orders: Sequence[float] | None = None,
) -> tuple[float, float]:
    """What dp-accounting's own Rényi accountant says, and its order: to check ours against.

    `orders`: its default ones, fractions among them, for None.

    Raises: AccountantError if it does not know the events, or fails at one of the orders.
    """
    rdp.require_delta(delta)
    rdp.require_counts(spend)
    accounting = _dp_accounting()
    from dp_accounting import rdp as reference

    accountant = reference.RdpAccountant(orders, _relation(accounting, adjacency))
    with _watched() as complaints:
        for event, count in spend.items():
            if not count:
                continue
            # Its REPLACE_ONE takes noise in distances of neighbours, which are two clipping norms.
            known = _translated(accounting, event, distance=adjacency.clipping_norms)
            try:
                accountant.compose(known, count)
            except accounting.UnsupportedEventError as error:
                raise AccountantError(
                    f"dp-accounting's Rényi accountant refuses a {type(event).__name__}",
                    why=str(error)[:200],
                    fix="compare by another accountant",
                ) from error
        found = accountant.get_epsilon_and_optimal_order(delta)
    values = accountant.rdp
    if complaints or not all(math.isfinite(value) and value >= 0 for value in values):
        raise AccountantError(
            "dp-accounting's Rényi accountant failed at some of its orders",
            why="it leaves such orders out, after which its result depends on the failure",
            fix="pass orders=fedcore.privacy.rdp.ORDERS: integers do not fail",
        )
    return float(found[0]), float(found[1])


def why_no_pld(spend: Mapping[Event, int], adjacency: Adjacency) -> str:
    """Why there is no PLD of `spend`, in words; empty if there is one."""
    return next((reason for event in spend if (reason := _why(event, adjacency))), "")


def _why(event: Event, adjacency: Adjacency) -> str:
    match event:
        case RepeatedEvent() | PoissonEvent():
            return _why(event.event, adjacency)
        case TruncatedPoissonEvent() if adjacency is not Adjacency.ZERO_OUT:
            return "truncated Poisson samples are understood for zeroing one unit"
        case FixedSizeEvent():
            return "dp-accounting has no distribution for samples of fixed size"
        case SharesEvent():
            return (
                "how far sums of discrete Gaussians lie from a rounded Gaussian was measured, "
                "KL = 1/(576 sigma^4) a coordinate, but is not proven"
            )
        case SkellamEvent():
            return "dp-accounting has no distribution for Skellam noise"
        case _:
            return ""


def no_pld(reason: str) -> AccountantError:
    """The error that "pld" was asked for in vain."""
    return AccountantError(
        "these events have no privacy loss distribution",
        why=reason,
        fix='pass accountant="rdp" or "best"',
    )


def _is_measured(spend: Mapping[Event, int], delta: float) -> bool:
    """Whether the like of these was part of what `_require_agreement` rests on."""
    leaves = [_leaf(event, count) for event, count in spend.items()]
    rounds = sum(count for _, count in leaves)
    return (
        1e-10 <= delta <= 1e-3
        and rounds <= 30_000
        and all(
            rate >= RATE_UNIT // 1000
            and isinstance(noise, GaussianEvent)
            and 0.6 <= noise.noise_multiplier <= 8
            for (rate, noise), _ in leaves
        )
    )


def _leaf(event: Event, count: int) -> tuple[tuple[int, Event], int]:
    """The sampling rate and the mechanism inside `event`, and how often it happens."""
    if isinstance(event, RepeatedEvent):
        return _leaf(event.event, count * event.count)
    if isinstance(event, PoissonEvent):
        return (event.rate, event.event), count
    return (RATE_UNIT, event), count


def _require_agreement(by_rdp: float, by_pld: float) -> None:
    # Measured over q .001-1, z .6-8, 1-30,000 rounds, delta 1e-10-1e-3: PLD lies below RDP always,
    # and RDP below 2 PLD + 2. An accountant that forgets a factor leaves this.
    if by_pld > by_rdp + 0.01 or by_rdp > 2 * by_pld + 2:
        raise AccountantError(
            f"two accountants contradict each other: RDP {by_rdp:.6g}, PLD {by_pld:.6g}",
            why="both bound the same epsilon, and have never been found so far apart",
            fix="check the versions of numpy, scipy and dp-accounting; report this with the plan",
        )


def _relation(accounting: Any, adjacency: Adjacency) -> Any:
    relation = accounting.NeighboringRelation
    return {
        Adjacency.ADD_REMOVE: relation.ADD_OR_REMOVE_ONE,
        Adjacency.ZERO_OUT: relation.REPLACE_SPECIAL,
        Adjacency.REPLACE_ONE: relation.REPLACE_ONE,
    }[adjacency]


def _translated(accounting: Any, event: Event, *, distance: int) -> Any:
    """The event for dp-accounting, its noise in `distance` clipping norms, rounded down."""
    match event:
        case GaussianEvent():
            return accounting.GaussianDpEvent(rdp.below(event.noise_multiplier / distance))
        case PoissonEvent(event=GaussianEvent()):
            within = _translated(accounting, event.event, distance=distance)
            return accounting.PoissonSampledDpEvent(event.rate / RATE_UNIT, within)
        case TruncatedPoissonEvent():
            noise = _translated(accounting, event.event, distance=distance).noise_multiplier
            rate = event.rate / RATE_UNIT
            return accounting.dp_event.TruncatedSubsampledGaussianDpEvent(
                event.population, rate, event.limit, noise
            )
        case FixedSizeEvent():
            within = _translated(accounting, event.event, distance=distance)
            return accounting.SampledWithoutReplacementDpEvent(event.population, event.size, within)
        case RepeatedEvent():
            within = _translated(accounting, event.event, distance=distance)
            return accounting.SelfComposedDpEvent(within, event.count)
        case _:
            raise AccountantError(
                f"dp-accounting knows no {type(event).__name__}",
                why="it has no mechanism with that noise",
                fix="account by our own Rényi curves",
            )


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    """Collects what dp-accounting would log, so that no user reads it and no failure is missed."""
    complaints: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        if "dp_accounting" not in record.pathname:
            return True
        complaints.append(record.getMessage())
        return False

    logger = logging.getLogger("absl")
    logger.addFilter(take)
    try:
        yield complaints
    finally:
        logger.removeFilter(take)


def _dp_accounting() -> Any:
    try:
        import dp_accounting
    except ImportError as error:
        raise _not_installed("dp-accounting is not installed") from error
    if not _version().startswith("0.6."):
        raise _not_installed(f"dp-accounting {_version()} is not a version 0.6")
    return dp_accounting


def _version() -> str:
    return metadata.version("dp-accounting")


def _not_installed(what: str) -> InstallError:
    return InstallError(
        what,
        why="privacy loss distributions are its work, and only these versions were checked",
        fix="install the extra 'dp', in a checkout pip install -e '.[dp]'; or account by RDP",
    )
