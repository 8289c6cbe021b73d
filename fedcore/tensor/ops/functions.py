"""Elementary functions beyond those of every network: other bases, angles and their inverses.

Integers give float32. Where a derivative is infinite or undefined, so is the result; at the origin
the derivatives of `hypot`, a subgradient, and of `arctan2`, by convention, are 0 as in PyTorch's
norm and atan2.
"""

from __future__ import annotations

import math
from typing import Any

from fedcore.tensor.ops.broadcasting import unbroadcast
from fedcore.tensor.ops.elementwise import equal, reciprocal, sqrt, square, where
from fedcore.tensor.primitive import Primitive, Vjp, ufunc
from fedcore.tensor.tensor import Tensor

__all__ = [
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "cosh",
    "exp2",
    "hypot",
    "log2",
    "log10",
    "root",
    "sinh",
    "tan",
]


def _unary(name: str, doc: str, slope: Vjp, *, onnx: str = "") -> Primitive:
    """A function of one number; `slope(y, x)` is its derivative from its value and argument."""

    def vjp(g: Tensor, y: Tensor, x: Tensor) -> Any:
        return g * slope(y, x)

    return ufunc(name, doc, vjps=(vjp,), onnx=onnx, floating=True)


exp2 = _unary("exp2", "2 to the power of each element.", lambda y, x: y * math.log(2.0))
log2 = _unary("log2", "The logarithm to base 2.", lambda y, x: reciprocal(x * math.log(2.0)))
log10 = _unary("log10", "The logarithm to base 10.", lambda y, x: reciprocal(x * math.log(10.0)))

tan = _unary("tan", "The tangent, in radians.", lambda y, x: square(y) + 1.0, onnx="Tan")
arcsin = _unary(
    "arcsin",
    "The angle whose sine is each element.",
    lambda y, x: reciprocal(sqrt(1.0 - square(x))),
    onnx="Asin",
)
arccos = _unary(
    "arccos",
    "The angle whose cosine is each element.",
    lambda y, x: -reciprocal(sqrt(1.0 - square(x))),
    onnx="Acos",
)
arctan = _unary(
    "arctan",
    "The angle whose tangent is each element.",
    lambda y, x: reciprocal(square(x) + 1.0),
    onnx="Atan",
)

sinh = _unary("sinh", "The hyperbolic sine.", lambda y, x: cosh(x), onnx="Sinh")
cosh = _unary("cosh", "The hyperbolic cosine.", lambda y, x: sinh(x), onnx="Cosh")
arcsinh = _unary(
    "arcsinh",
    "The inverse of `sinh`.",
    lambda y, x: reciprocal(sqrt(square(x) + 1.0)),
    onnx="Asinh",
)
arccosh = _unary(
    "arccosh",
    "The inverse of `cosh` that is not negative.",
    lambda y, x: reciprocal(sqrt(square(x) - 1.0)),
    onnx="Acosh",
)
arctanh = _unary(
    "arctanh",
    "The inverse of `tanh`.",
    lambda y, x: reciprocal(1.0 - square(x)),
    onnx="Atanh",
)

hypot = ufunc(
    "hypot",
    "sqrt(a² + b²) of each pair, which cannot overflow.",
    floating=True,
    vjps=(
        lambda g, y, a, b: unbroadcast(g * (a / _nonzero(y)), a),
        lambda g, y, a, b: unbroadcast(g * (b / _nonzero(y)), b),
    ),
)
arctan2 = ufunc(
    "arctan2",
    "The angle of the point (b, a), from -pi to pi.",
    floating=True,
    vjps=(
        lambda g, y, a, b: unbroadcast(g * _over_square(b, hypot(a, b)), a),
        lambda g, y, a, b: unbroadcast(-g * _over_square(a, hypot(a, b)), b),
    ),
)


def _nonzero(x: Tensor) -> Any:
    """`x` with 1 in place of 0, for a divisor whose dividend is 0 there too."""
    return where(equal(x, 0.0), 1.0, x)


def _over_square(a: Tensor, r: Tensor) -> Any:
    """The quotient a / r² in two divisions: r² of a small or large r would be 0 or infinite."""
    return a / _nonzero(r) / _nonzero(r)


def root(x: Any) -> Tensor:
    """The square root of what is at least 0; where that is 0, so is the derivative.

    It is a subgradient of the root of a sum of squares, which `sqrt` makes 0 times infinity.
    """
    zero = equal(x, 0)
    return where(zero, 0.0, sqrt(where(zero, 1, x)))
