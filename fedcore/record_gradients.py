"""Sums of clipped per-example gradients, in which a record that cannot be computed is a zero.

Whether one record is in order is as secret as all else about it: it may neither stop a step nor be
named in an error. So programs are recorded on zeros, where a model that does not fit its data fails
for everybody alike, and whatever fails afterwards is one record's doing and leaves no trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.lanes import vmap
from fedcore.autograd.per_example import clipped_sum
from fedcore.autograd.replay import compile
from fedcore.autograd.tape import factored_grad, grad
from fedcore.errors import ArgumentError, PlanError, ShapeError
from fedcore.nn.context import Context
from fedcore.nn.module import Module
from fedcore.privacy.dpsgd import RecordSum
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.values import IntSum
from fedcore.step import Loss
from fedcore.tensor.cotangent import Cotangent, Outer, Pieces, Rows, settled
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["RecordGradients"]

Model = TypeVar("Model", bound=Module)

_WORKING_SET = 2**19
"""Gradients worked on at once, in numbers: 2 MiB, about a core's cache."""

# Where gradients are not written out, what layers keep is what has to fit: 256 examples of a
# convolutional model of 114,314 parameters take 0.37 s by 128 at once and 0.76 s by 512, 8192 of
# a dense layer 784 x 10 31 ms and 22, 2400 x 10 61 ms and 86.
_TOGETHER = 128

# A product of one row is added up in another order than one of two or more, whose rows do not
# depend on where they stand: a record's bits are to depend on that record alone.
_LEAST_CHUNK = 2


class RecordGradients(Generic[Model]):
    """Sums of clipped per-example gradients of a model, on the grid of a plan.

    `rebuild` makes a model of a flat theta (D,). `loss` is one of `fedcore.nn`, applied to one
    example at a time. `chunk` examples are worked on at once; in the exact grade the result has the
    same bits for all of its values. A record whose loss cannot be computed, because its label is no
    class or its gradient is not finite, contributes zero, and nobody is told.
    Raises: PlanError for a unit other than the record; ArgumentError for a chunk below 1.
    """

    def __init__(
        self,
        rebuild: Callable[[Tensor], Model],
        *,
        loss: Loss,
        plan: PrivacyPlan,
        chunk: int | None = None,
    ) -> None:
        RecordSum(plan)
        self.plan = plan
        self._exact = plan.grade is Grade.EXACT
        fitting = min(512, max(8, _WORKING_SET // plan.dimension)) if self._exact else _TOGETHER
        if chunk is not None and (type(chunk) is not int or chunk < 1):
            raise ArgumentError(
                f"gradients of {chunk!r} examples at once",
                why="a sum is worked off in parts of so many",
                fix="pass a positive int, or None",
            )
        self._chunk = max(_LEAST_CHUNK, chunk or fitting)
        self._dtype = np.float32 if self._exact else np.float64
        self._rehearsed: set[tuple[Any, ...]] = set()

        whole = np.ones(1, self._dtype)

        def of_one(theta: Tensor, x: Any, y: Any, weight: Any, key: Any) -> Tensor:
            model = rebuild(theta)
            prediction = model(tensor(x)[None], ctx=Context(model, training=True, key=key))
            value = loss(prediction, tensor(y)[None], weight=tensor(whole))
            return tensor(weight * value)

        axes = (0, 0, 0, None)
        self._of_one = of_one
        self._compute = compile(
            vmap(grad(of_one), in_axes=(None, *axes))
            if self._exact
            else clipped_sum(of_one, clip_norm=_at_most(plan.clipping_norm), in_axes=axes)
        )

    def total(
        self, theta: NDArray[np.floating[Any]], x: NDArray[Any], y: NDArray[Any], *, key: Key
    ) -> IntSum:
        """The sum over the examples x (B, ...), y (B, ...) at theta (D,); of none, zero.

        `key` draws what layers draw while they train, as dropout.
        Raises: ShapeError, and what `rehearse` does.
        """
        if theta.shape != (self.plan.dimension,) or len(x) != len(y):
            raise ShapeError(
                f"parameters {theta.shape}, and examples with their targets",
                why=f"the plan is for {self.plan.dimension} parameters, and every example has one "
                f"target",
                fix="pass the flat vector of the model, and rows of one data set",
            )
        self.rehearse(x, y)
        found = RecordSum(self.plan)
        theta, words = theta.astype(self._dtype), key.words()
        # A record may hold what no float32 does: nor may a warning tell of it.
        with np.errstate(all="ignore"):
            for start in range(0, len(x), self._chunk):
                rows = slice(start, start + self._chunk)
                gradients = self._of_chunk(theta, x[rows], y[rows], words)
                if gradients is None:
                    continue
                if self._exact:
                    found.add(gradients)
                else:
                    found.add_clipped(gradients)
        return found.total()

    def rehearse(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Computes with zeros instead of the records x (B, ...), y (B, ...): what fails, fails now.

        `total` does it by itself for data of each new shape or dtype; call it before a round is
        paid for. Errors tell of shapes and dtypes, never of what records hold.
        Raises: what layers and loss raise; PlanError if the model does not suit the plan's grade.
        """
        kind = (x.shape[1:], x.dtype, y.shape[1:], y.dtype)
        if kind in self._rehearsed:
            return
        theta: NDArray[np.floating[Any]] = np.zeros(self.plan.dimension, self._dtype)
        words = Key(0, "forward").words()
        zeros = [np.zeros((1, *part.shape[1:]), self._dtype_of(part)) for part in (x, y)]
        with np.errstate(all="ignore"):
            if not self._exact:
                one = self._dtype(1)
                found = factored_grad(self._of_one)(theta, *(z[0] for z in zeros), one, words)
                _require_single_rows(found)
            for size in {_LEAST_CHUNK, self._chunk}:
                self._run(theta, zeros[0], zeros[1], words, size=size)
        self._rehearsed.add(kind)

    def _of_chunk(
        self,
        theta: NDArray[np.floating[Any]],
        x: NDArray[Any],
        y: NDArray[Any],
        words: NDArray[Any],
    ) -> NDArray[Any] | None:
        """What `_run` gives for all records that can be computed, or None if there are none."""
        gradients = self._attempt(theta, x, y, words, size=self._chunk)
        if gradients is not None:
            return gradients
        # Each by itself: its neighbours do not decide what becomes of it. In small programs, or
        # labels that are wrong throughout would take a chunk's time each.
        fine = [
            index
            for index in range(len(x))
            if self._attempt(
                theta, x[index : index + 1], y[index : index + 1], words, size=_LEAST_CHUNK
            )
            is not None
        ]
        return self._attempt(theta, x[fine], y[fine], words, size=self._chunk) if fine else None

    def _attempt(
        self,
        theta: NDArray[np.floating[Any]],
        x: NDArray[Any],
        y: NDArray[Any],
        words: NDArray[Any],
        *,
        size: int,
    ) -> NDArray[Any] | None:
        """What `_run` gives, or None where it fails, which is for what a record holds.

        All else that could fail has failed in the rehearsal.
        """
        try:
            return self._run(theta, x, y, words, size=size)
        except MemoryError:
            raise
        except Exception:
            return None

    def _run(
        self,
        theta: NDArray[np.floating[Any]],
        x: NDArray[Any],
        y: NDArray[Any],
        words: NDArray[Any],
        *,
        size: int,
    ) -> NDArray[Any]:
        """The gradients (b, D) of the records, or in the other grade their clipped sum (D,)."""
        weight = (np.arange(size) < len(x)).astype(self._dtype)
        xs, ys = (self._padded(part, size) for part in (x, y))
        computed = self._compute(theta, xs, ys, weight, words)
        gradients: NDArray[Any] = (computed if self._exact else computed[0]).numpy()
        return gradients[: len(x)] if self._exact else gradients

    def _padded(self, rows: NDArray[Any], size: int) -> NDArray[Any]:
        """`rows` (b, ...) with rows of zeros after them, so that each chunk replays one program."""
        padded = np.zeros((size, *rows.shape[1:]), self._dtype_of(rows))
        padded[: len(rows)] = rows
        return padded

    def _dtype_of(self, rows: NDArray[Any]) -> np.dtype[Any]:
        return np.dtype(self._dtype) if rows.dtype.kind == "f" else rows.dtype.newbyteorder("=")


def _require_single_rows(gradient: Cotangent) -> None:
    """Raises: PlanError for a weight whose gradient is added up from several rows of an example.

    Rows that cancel each other leave their rounding, which may exceed what is left of them by far:
    `clipped_sum` bounds it for one example, and the declared sensitivity has no term for it.
    """
    if _rows_of(settled(gradient)) > 1:
        raise PlanError(
            "grade=Grade.SUM for a model that uses a weight on several rows of one example",
            why="as a layer over a sequence, an embedding or a recurrence does; how far rounding "
            "then moves a sum of clipped gradients is not in the declared sensitivity",
            fix="plan with grade=Grade.EXACT; convolutions and dense layers on one row an example "
            "may keep Grade.SUM",
        )


def _rows_of(cotangent: Cotangent) -> int:
    """How many rows the products of a settled cotangent have; of what is an array already, one."""
    match cotangent:
        case Pieces(parts=parts):
            return max((_rows_of(part) for part in parts.values()), default=1)
        case Outer(pairs=pairs) | Rows(pairs=pairs):
            return sum(g.shape[0] for _, g in pairs)
        case _:
            return 1


def _at_most(norm: Fraction) -> float:
    """The largest float that is not above."""
    found = float(norm)
    return math.nextafter(found, 0.0) if Fraction(found) > norm else found
