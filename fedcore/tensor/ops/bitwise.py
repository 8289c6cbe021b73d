"""Operations on bits: of whole numbers bit by bit, of booleans as truth values."""

from __future__ import annotations

from typing import Any

from fedcore.errors import DtypeError, user_line
from fedcore.tensor.ops.arguments import operand
from fedcore.tensor.ops.elementwise import logical_and, logical_not, logical_or, not_equal
from fedcore.tensor.primitive import Primitive, ufunc
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor"]

_and = ufunc("bitwise_and", "The bits set in both.", onnx="BitwiseAnd", public=False)
_or = ufunc("bitwise_or", "The bits set in either.", onnx="BitwiseOr", public=False)
_xor = ufunc("bitwise_xor", "The bits that differ.", onnx="BitwiseXor", public=False)
_not = ufunc("bitwise_not", "Every bit turned.", method="invert", onnx="BitwiseNot", public=False)


def bitwise_and(a: Any, b: Any) -> Tensor:
    """The bits that both operands have; of booleans, whether both are true.

    Raises: DtypeError for floating operands.
    """
    return _chosen("bitwise_and", logical_and, _and, a, b)


def bitwise_or(a: Any, b: Any) -> Tensor:
    """The bits that any operand has; of booleans, whether any is true.

    Raises: DtypeError for floating operands.
    """
    return _chosen("bitwise_or", logical_or, _or, a, b)


def bitwise_xor(a: Any, b: Any) -> Tensor:
    """The bits that one operand has and the other has not; of booleans, whether they differ.

    Raises: DtypeError for floating operands.
    """
    return _chosen("bitwise_xor", not_equal, _xor, a, b)


def bitwise_not(x: Any) -> Tensor:
    """The bits that `x` has not; of booleans, whether they are false.

    Raises: DtypeError for a floating operand.
    """
    return _chosen("bitwise_not", logical_not, _not, x)


def _chosen(name: str, of_booleans: Primitive, of_integers: Primitive, *values: Any) -> Tensor:
    xs = [operand(name, x) for x in values]
    if floating := [x for x in xs if x.dtype.kind == "f"]:
        raise DtypeError(
            f"{name}: an operand of {floating[0].dtype}",
            where=user_line(),
            why="floating numbers have no bits to combine",
            fix="compare them first, as in (x > 0) & (x < 1)",
        )
    chosen = of_booleans if all(x.dtype.kind == "b" for x in xs) else of_integers
    if any(isinstance(x, Tensor) for x in values):
        return chosen(*values)  # a plain number takes the dtype of the tensor beside it
    return chosen(*xs)


for _operation in (bitwise_and, bitwise_or, bitwise_xor, bitwise_not):
    operations.register(_operation.__name__, _operation)
