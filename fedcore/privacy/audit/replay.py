"""A round is run again for data that differ in one unit: whatever else changes is a leak.

With the noise frozen a round is a function, and privacy is a property of it that needs no
statistics: neighbouring inputs move the exact sum by no more than its noise was made for, and
nothing else at all. A sensitivity that is exceeded by one part in ten thousand shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy.audit.verdict import Finding, Outcome, Verdict
from fedcore.privacy.units import Adjacency
from fedcore.privacy.values import squared_norm

__all__ = ["Replay", "Round", "Trace", "hostile_updates", "replay"]

_REMOVED, _ZEROS = "nothing", "zeros"
_NEAR = 0.9
_MOST_REASONS = 3


@dataclass(frozen=True, eq=False)
class Trace:
    """What a round did: its exact sum before noise, int64 (D,), and everything else that it shows.

    `messages`: in their order, what the round gives to those whom the guarantee is against, as
    bytes. `records`: what it writes, to the ledger above all. What follows from the release is in
    neither, or computed from a frozen one, the same in every run: it is covered by the noise.
    Raises: DtypeError, ShapeError.
    """

    total: NDArray[np.int64]
    messages: tuple[bytes, ...] = ()
    records: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.total, np.ndarray) or self.total.dtype != np.int64:
            raise DtypeError(
                "replay: the total of a trace is no array of int64",
                why="only integers have an exact sum, whose distances can be compared exactly",
                fix="pass the vector of the IntSum that the mechanism is given",
            )
        if self.total.ndim != 1:
            raise ShapeError(
                f"replay: the total of a trace has shape {self.total.shape}",
                why="it is one flat vector",
                fix="pass an array of shape (D,)",
            )

    def __repr__(self) -> str:
        return (
            f"Trace(<{self.total.size} integers>, {len(self.messages)} messages, "
            f"{len(self.records)} records)"
        )


class Round(Protocol):
    """A round of the auditor's own making, from what units hold to the exact sum.

    It starts from the same state and draws the same bits each time that it is called. `updates`:
    one array a unit; whatever a faulty or hostile unit may hold, also of another dtype or shape.
    """

    def __call__(self, updates: Sequence[NDArray[Any]], /) -> Trace: ...


@dataclass(frozen=True, kw_only=True)
class Replay(Finding):
    """What the runs of a round differed in; see `replay`.

    `largest_ratio`: the longest way that the sum moved over the way it may, at most 1;
    `largest_at`: between which neighbours. `violations`: all that noise does not cover.
    """

    title: ClassVar[str] = "Replay"

    runs: int
    units: int
    squared_sensitivity: Fraction
    adjacency: str
    largest_ratio: float
    largest_at: str
    violations: tuple[str, ...]


def replay(
    round: Round,
    updates: Sequence[NDArray[Any]],
    *,
    squared_sensitivity: Fraction | int,
    adjacency: Adjacency = Adjacency.ADD_REMOVE,
    substitutes: Mapping[str, NDArray[Any]] | None = None,
) -> Replay:
    """Whether neighbouring inputs move the sum alone, and no further than its noise covers.

    `updates`: one float array (D,) a unit; a handful will do, since every unit in turn holds each
    of the `substitutes` instead (default: `hostile_updates(D)`), and is removed or added where the
    adjacency has units come and go. `squared_sensitivity`: of one contribution, the plan's, in
    squared grid steps; two contributions are allowed for where one replaces another. Squares of
    distances are compared with it in integers.

    A run of `round` that raises has stopped for one unit's data, a violation as any other. The
    verdict is `INCONCLUSIVE` if the round does not repeat itself, or if no neighbour came near the
    bound, so that a broken one could have looked the same. Raises: ArgumentError, ShapeError, and
    whatever `round` raises for `updates` themselves.

    >>> from fedcore.privacy import IntSum, quantise
    >>> def honest(updates):
    ...     fit = [u for u in updates if u.dtype.kind == "f" and u.shape == (3,)]
    ...     cut = [quantise(u, clipping_norm=1, grid_steps=1000) for u in fit]
    ...     return Trace(IntSum.of(cut, dimension=3, grid_steps=1000).vector)
    >>> def weighted(updates):
    ...     return Trace(2 * honest(updates).total)
    >>> ones = [np.ones(3)] * 2
    >>> replay(honest, ones, squared_sensitivity=1000**2).verdict.outcome.value
    'passed'
    >>> replay(weighted, ones, squared_sensitivity=1000**2).verdict.outcome.value
    'failed'
    """
    dimension = _checked(updates, squared_sensitivity)
    if substitutes is None:
        substitutes = hostile_updates(dimension)
    held = {**substitutes, _ZEROS: np.zeros(dimension)}
    baseline, again = round(list(updates)), round(list(updates))
    unstable = _difference(baseline, again)
    if unstable is None and not np.array_equal(baseline.total, again.total):
        unstable = "another sum"
    found = _Comparison(squared_sensitivity * adjacency.clipping_norms**2)
    runs = 2
    for position in range(len(updates)):
        sums = {"what it held": baseline.total}
        variants: dict[str, Sequence[NDArray[Any]]] = {
            name: [*updates[:position], update, *updates[position + 1 :]]
            for name, update in held.items()
        }
        if adjacency is Adjacency.ADD_REMOVE:
            variants[_REMOVED] = [*updates[:position], *updates[position + 1 :]]
        for name, variant in variants.items():
            runs += 1
            place = f"unit {position} holds {name}"
            try:
                trace = round(variant)
            except Exception as error:
                # Only its kind: what it says may hold the data of the unit.
                found.violations.append(f"{place}: the round stops with {type(error).__name__}")
                continue
            if (what := _difference(baseline, trace)) is not None:
                found.violations.append(f"{place}: {what}")
            if trace.total.shape == baseline.total.shape:
                sums[name] = trace.total
        found.compare(sums, adjacency, position)
    return Replay(
        verdict=_judge(unstable, found, adjacency),
        runs=runs,
        units=len(updates),
        squared_sensitivity=Fraction(squared_sensitivity),
        adjacency=adjacency.value,
        largest_ratio=found.ratio,
        largest_at=found.place,
        violations=tuple(found.violations),
    )


def hostile_updates(dimension: int) -> dict[str, NDArray[Any]]:
    """Updates (dimension,) that have broken a round somewhere, each under its name.

    Not finite, huge, tiny, dense and sparse, all of them beyond any clipping norm or none; and of
    the wrong dtype or shape.
    """
    ones, first = np.ones(dimension), np.zeros(dimension)
    first[0] = 1.0
    one_nan, one_infinite = ones.copy(), ones.copy()
    one_nan[0], one_infinite[-1] = np.nan, np.inf
    normal = np.random.default_rng(0).standard_normal(dimension)
    return {
        "NaN": ones * np.nan,
        "one NaN": one_nan,
        "infinity": ones * np.inf,
        "one infinity": one_infinite,
        "minus infinity": ones * -np.inf,
        "1e30 in each coordinate": ones * 1e30,
        "1e30 in one coordinate": first * 1e30,
        "-1e30 in one coordinate": first * -1e30,
        "1e30 in random directions": normal * 1e30,
        "a length of 3 in random directions": normal * (3 / np.sqrt(normal @ normal)),
        "1e300 in each coordinate": ones * 1e300,
        "subnormal numbers": ones * 5e-324,
        "float32": (normal * 1e30).astype(np.float32),
        "float16": np.full(dimension, np.inf, np.float16),
        "integers": np.full(dimension, 2**62),
        "objects": np.full(dimension, "x", object),
        "one coordinate more": np.ones(dimension + 1),
        "one coordinate less": np.ones(dimension - 1),
        "an axis more": np.ones((1, dimension)),
        "no axis": np.array(1.0),
    }


class _Comparison:
    """The distances of sums, each against the bound in integers, and what broke it."""

    def __init__(self, bound: Fraction | int) -> None:
        self.bound, self.largest, self.place = bound, 0, "none"
        self.violations: list[str] = []

    @property
    def ratio(self) -> float:
        return math.sqrt(self.largest / self.bound)

    def compare(
        self, sums: Mapping[str, NDArray[np.int64]], adjacency: Adjacency, position: int
    ) -> None:
        """All pairs of neighbours among the sums for whatever the unit at `position` holds."""
        names = list(sums)
        if adjacency is Adjacency.REPLACE_ONE:
            pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
        else:
            reference = _REMOVED if adjacency is Adjacency.ADD_REMOVE else _ZEROS
            pairs = [(name, reference) for name in names if reference in sums]
        for one, other in pairs:
            squared = _squared_distance(sums[one], sums[other])
            place = f"unit {position} holds {one} instead of {other}"
            if squared > self.largest:
                self.largest, self.place = squared, place
            if squared > self.bound:
                self.violations.append(
                    f"{place}: the sum moves {math.sqrt(squared / self.bound):.6g} times as far as "
                    "it may"
                )


def _squared_distance(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    # A difference of more than 63 bits would wrap, and look short.
    if all(x.min(initial=0) > -(2**62) and x.max(initial=0) < 2**62 for x in (one, other)):
        return squared_norm(one - other)
    return sum((a - b) ** 2 for a, b in zip(one.tolist(), other.tolist(), strict=True))


def _difference(one: Trace, other: Trace) -> str | None:
    """In what else than the sum two traces differ, in words that tell nothing of the data."""
    for name, left, right in (
        ("messages", one.messages, other.messages),
        ("records", one.records, other.records),
    ):
        if len(left) != len(right):
            return f"{len(right)} {name} instead of {len(left)}"
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            if a != b:
                return f"{name[:-1]} {number} is another"
    if one.total.shape != other.total.shape or one.total.dtype != other.total.dtype:
        return "the sum is of another shape or dtype"
    return None


def _judge(unstable: str | None, found: _Comparison, adjacency: Adjacency) -> Verdict:
    if unstable is not None:
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"the same input gave another result ({unstable}): freeze the noise and start each run "
            "from the same state",
        )
    if violations := found.violations:
        shown = "; ".join(violations[:_MOST_REASONS])
        more = len(violations) - _MOST_REASONS
        return Verdict(Outcome.FAILED, shown + (f"; and {more} more" if more > 0 else ""))
    if found.ratio < _NEAR:
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"no neighbour moved the sum by more than {found.ratio:.3g} of what it may: a bound "
            "that is broken could have looked the same; audit with the weights and clipping norms "
            "that reach it",
        )
    return Verdict(
        Outcome.PASSED,
        f"whatever one unit holds ({adjacency.value}), the sum moves by at most {found.ratio:.6g} "
        "of what it may, and nothing else changes",
    )


def _checked(updates: Sequence[NDArray[Any]], squared_sensitivity: Fraction | int) -> int:
    if type(squared_sensitivity) not in (int, Fraction) or squared_sensitivity <= 0:
        raise ArgumentError(
            f"replay: squared_sensitivity = {squared_sensitivity!r}",
            why="squared distances of integer sums are compared with it, without rounding",
            fix="pass the plan's squared_sensitivity, a Fraction or an int",
        )
    if not updates or any(np.shape(update) != np.shape(updates[0]) for update in updates):
        raise ShapeError(
            f"replay: updates of shapes {[np.shape(update) for update in updates]}",
            why="a round starts from updates of one length",
            fix="pass one array of shape (D,) for each of a few units",
        )
    if np.ndim(updates[0]) != 1 or np.size(updates[0]) < 2:
        raise ShapeError(
            f"replay: an update has shape {np.shape(updates[0])}",
            why="it is one flat vector of two coordinates or more",
            fix="pass arrays of shape (D,)",
        )
    return int(np.size(updates[0]))
