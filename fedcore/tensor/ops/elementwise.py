"""Elementwise operations: one declaration each, with the derivative beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedcore.errors import DtypeError, user_line
from fedcore.tensor.ops.arguments import companion, element_type, operand, real
from fedcore.tensor.ops.broadcasting import unbroadcast
from fedcore.tensor.primitive import ELEMENTWISE, broadcast_shape, primitive, ufunc
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = [
    "absolute",
    "add",
    "alias",
    "astype",
    "cast",
    "ceil",
    "clip",
    "cos",
    "divide",
    "equal",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "nan_to_num",
    "negative",
    "not_equal",
    "power",
    "reciprocal",
    "remainder",
    "require_floating",
    "round",
    "sign",
    "sin",
    "sqrt",
    "square",
    "stop_gradient",
    "subtract",
    "tanh",
    "trunc",
    "where",
]

_PRODUCTS = 8  # up to this power squares and products are exact to a few roundings and faster

# ---- arithmetic

add = ufunc(
    "add",
    "The sum of each pair of elements.",
    onnx="Add",
    vjps=(lambda g, y, a, b: unbroadcast(g, a), lambda g, y, a, b: unbroadcast(g, b)),
)
subtract = ufunc(
    "subtract",
    "The difference of each pair of elements.",
    onnx="Sub",
    vjps=(lambda g, y, a, b: unbroadcast(g, a), lambda g, y, a, b: unbroadcast(-g, b)),
)
multiply = ufunc(
    "multiply",
    "The product of each pair of elements.",
    onnx="Mul",
    vjps=(lambda g, y, a, b: unbroadcast(g * b, a), lambda g, y, a, b: unbroadcast(g * a, b)),
)


@primitive(
    batch=ELEMENTWISE,
    shape=broadcast_shape,
    inplace=3,
    onnx="Div",
    vjps=(lambda g, y, a, b: unbroadcast(g / b, a), lambda g, y, a, b: unbroadcast(-g * y / b, b)),
)
def divide(xp: Any, a: Any, b: Any, *, out: Any = None) -> Any:
    """The quotient; integers give float32, where NumPy gives float64."""
    dtype = None if a.dtype.kind == "f" else np.float32
    return xp.divide(a, b, out=out, dtype=dtype, casting="unsafe")


floor_divide = ufunc(
    "floor_divide", "The largest whole number not above the quotient of each pair of elements."
)
remainder = ufunc(
    "remainder",
    "What `floor_divide` leaves over; it has the sign of the divisor.",
    vjps=(
        lambda g, y, a, b: unbroadcast(g, a),
        lambda g, y, a, b: unbroadcast(-g * floor_divide(a, b), b),
    ),
)
negative = ufunc(
    "negative", "Each element with the other sign.", onnx="Neg", vjps=(lambda g, y, x: -g,)
)
absolute = ufunc(
    "absolute",
    "Each element without its sign; the derivative at 0 is 0.",
    onnx="Abs",
    vjps=(lambda g, y, x: g * sign(x),),
)
reciprocal = ufunc(
    "reciprocal",
    "One over each element.",
    onnx="Reciprocal",
    floating=True,
    vjps=(lambda g, y, x: -g * y * y,),
)
square = ufunc("square", "The square of each element.", vjps=(lambda g, y, x: g * (x * 2.0),))
sign = ufunc("sign", "-1, 0 or 1 for each element, as it is below, at or above 0.", onnx="Sign")
floor = ufunc("floor", "The largest whole number not above each element.", onnx="Floor")
ceil = ufunc("ceil", "The smallest whole number not below each element.", onnx="Ceil")
trunc = ufunc("trunc", "The whole part of each element.")


@primitive(batch=ELEMENTWISE, shape=lambda shape: shape, inplace=1, onnx="Round")
def round(xp: Any, x: Any, *, out: Any = None) -> Any:
    """The whole number nearest to each element; halves go to the even one."""
    return (xp.rint if x.dtype.kind == "f" else xp.positive)(x, out=out)


power_primitive = ufunc(
    "power",
    "Each element of `a` to the power of the one of `b`.",
    onnx="Pow",
    public=False,
    vjps=(
        lambda g, y, a, b: unbroadcast(g * b * power(a, where(b == 0.0, 1.0, b - 1.0)), a),
        lambda g, y, a, b: unbroadcast(g * y * log(where(a > 0.0, a, 1.0)), b),
    ),
)


def power(a: Any, b: Any) -> Tensor:
    """`a` to the power `b`; small whole powers are products, 100 times as fast as power.

    A negative whole power of integers is their reciprocal in float32.
    """
    if isinstance(b, int | float | np.integer | np.floating) and isinstance(a, Tensor):
        if isinstance(b, float | np.floating) and a.dtype.kind != "f":
            a = cast(a, dtype=np.dtype(np.float32))
        if b == 0.5:
            return sqrt(a)
        times = int(b) if -_PRODUCTS <= b <= _PRODUCTS else 0
        if times == b != 0:
            product = _product(a, abs(times))
            return product if times > 0 else reciprocal(product)
    return power_primitive(a, b)


def _product(a: Tensor, times: int) -> Tensor:
    if times == 1:
        return a
    half = square(_product(a, times // 2))
    return half * a if times % 2 else half


operations.register("power", power)

# ---- exponentials and friends

exp = ufunc(
    "exp",
    "e to the power of each element.",
    onnx="Exp",
    floating=True,
    vjps=(lambda g, y, x: g * y,),
)
expm1 = ufunc(
    "expm1",
    "exp(x) - 1, exact also where x is near 0.",
    floating=True,
    vjps=(lambda g, y, x: g * (y + 1.0),),
)
log = ufunc(
    "log",
    "The natural logarithm of each element.",
    onnx="Log",
    floating=True,
    vjps=(lambda g, y, x: g / x,),
)
log1p = ufunc(
    "log1p",
    "log(1 + x), exact also where x is near 0.",
    floating=True,
    vjps=(lambda g, y, x: g / (x + 1.0),),
)
sqrt = ufunc(
    "sqrt",
    "The square root of each element.",
    onnx="Sqrt",
    floating=True,
    vjps=(lambda g, y, x: g * 0.5 / y,),
)
tanh = ufunc(
    "tanh",
    "The hyperbolic tangent of each element.",
    onnx="Tanh",
    floating=True,
    vjps=(lambda g, y, x: g * (1.0 - y * y),),
)
sin = ufunc(
    "sin",
    "The sine of each element, in radians.",
    onnx="Sin",
    floating=True,
    vjps=(lambda g, y, x: g * cos(x),),
)
cos = ufunc(
    "cos",
    "The cosine of each element, in radians.",
    onnx="Cos",
    floating=True,
    vjps=(lambda g, y, x: -g * sin(x),),
)
logaddexp = ufunc(
    "logaddexp",
    "log(exp(a) + exp(b)), which cannot overflow; at two equal infinities the derivatives are 1/2.",
    floating=True,
    vjps=(
        lambda g, y, a, b: unbroadcast(g * _share(a, b), a),
        lambda g, y, a, b: unbroadcast(g * _share(b, a), b),
    ),
)


def _share(a: Tensor, b: Tensor) -> Any:
    """exp(a) / (exp(a) + exp(b)), also where one of them or both are infinite."""
    return operations.sigmoid(where(equal(a, b), 0.0, a - b))


# ---- order: at a tie the first operand takes the whole cotangent, so that exactly one wins

maximum = ufunc(
    "maximum",
    "The larger of each pair; at a tie the derivative goes to `a`.",
    onnx="Max",
    vjps=(
        lambda g, y, a, b: unbroadcast(g * (a >= b), a),
        lambda g, y, a, b: unbroadcast(g * (a < b), b),
    ),
)
minimum = ufunc(
    "minimum",
    "The smaller of each pair; at a tie the derivative goes to `a`.",
    onnx="Min",
    vjps=(
        lambda g, y, a, b: unbroadcast(g * (a <= b), a),
        lambda g, y, a, b: unbroadcast(g * (a > b), b),
    ),
)
equal = ufunc("equal", "Whether the elements of each pair are equal.", onnx="Equal")
not_equal = ufunc("not_equal", "Whether the elements of each pair differ.")
less = ufunc("less", "Whether a < b, for each pair.", onnx="Less")
less_equal = ufunc("less_equal", "Whether a <= b, for each pair.", onnx="LessOrEqual")
greater = ufunc("greater", "Whether a > b, for each pair.", onnx="Greater")
greater_equal = ufunc("greater_equal", "Whether a >= b, for each pair.", onnx="GreaterOrEqual")
logical_and = ufunc("logical_and", "Whether both elements of each pair are true.", onnx="And")
logical_or = ufunc("logical_or", "Whether at least one element of each pair is true.", onnx="Or")
logical_xor = ufunc("logical_xor", "Whether exactly one of each pair is true.", onnx="Xor")
logical_not = ufunc("logical_not", "Whether each element is false.", onnx="Not")
isnan = ufunc("isnan", "Whether each element is not a number.", onnx="IsNaN")
isinf = ufunc("isinf", "Whether each element is infinite.", onnx="IsInf")
isfinite = ufunc("isfinite", "Whether each element is neither infinite nor NaN.")


def clip(x: Any, low: Any = None, high: Any = None) -> Tensor:
    """`x` limited to [low, high]; a bound that is None does not limit."""
    x = operand("clip", x)
    if low is not None:
        x = maximum(x, companion("clip", low))
    return x if high is None else minimum(x, companion("clip", high))


operations.register("clip", clip)


def nan_to_num(
    x: Any, *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """`x` with numbers in place of NaN and the infinities, by default 0 and the largest numbers.

    The derivative is 0 where a number was put in.
    """
    x = operand("nan_to_num", x)
    if x.dtype.kind != "f":
        return x  # type: ignore[no-any-return]
    limits = np.finfo(x.dtype)
    top, bottom = (
        float(limit) if given is None else real("nan_to_num", option, given)
        for option, given, limit in (("posinf", posinf, limits.max), ("neginf", neginf, limits.min))
    )
    finite = where(isnan(x), real("nan_to_num", "nan", nan), x)
    bounded: Tensor = where(finite == math.inf, top, where(finite == -math.inf, bottom, finite))
    return bounded


operations.register("nan_to_num", nan_to_num)


@primitive(
    batch=ELEMENTWISE,
    shape=broadcast_shape,
    onnx="Where",
    vjps=(
        None,
        lambda g, y, c, a, b: unbroadcast(where(c, g, 0.0), a),
        lambda g, y, c, a, b: unbroadcast(where(c, 0.0, g), b),
    ),
)
def where(xp: Any, condition: Any, a: Any, b: Any, *, out: Any = None) -> Any:
    """`a` where `condition` is true, else `b`."""
    if out is None:
        return xp.where(condition, a, b)
    xp.copyto(out, b)
    xp.copyto(out, a, where=condition.astype(bool, copy=False))
    return out


@primitive(
    batch=ELEMENTWISE,
    shape=lambda shape, *, dtype: shape,
    onnx="Cast",
    vjps=(lambda g, y, x, *, dtype: cast(g, dtype=x.dtype) if x.dtype.kind == "f" else None,),
)
def cast(xp: Any, x: Any, *, dtype: Any, out: Any = None) -> Any:
    """`x` converted to `dtype`."""
    if out is None:
        return x.astype(dtype)
    xp.copyto(out, x, casting="unsafe")
    return out


@primitive(
    batch=ELEMENTWISE,
    shape=lambda shape: shape,
    view=True,
    factored=True,
    vjps=(lambda g, y, x: g,),
    public=False,
)
def alias(xp: Any, x: Any, *, out: Any = None) -> Any:
    """`x` itself as a new value: the variable that a `grad` differentiates with respect to."""
    return x.view()


@primitive(batch=ELEMENTWISE, shape=lambda shape: shape, view=True)
def stop_gradient(xp: Any, x: Any, *, out: Any = None) -> Any:
    """`x` as a constant: no derivative passes through."""
    return x.view()


def astype(x: Any, dtype: Any) -> Tensor:
    """`x` converted to `dtype`; itself if it has it already.

    Raises: DtypeError if that is no dtype of real numbers.
    """
    x, kind = operand("astype", x), element_type("astype", dtype)
    return x if x.dtype == kind else cast(x, dtype=kind)


operations.register("astype", astype)


def require_floating(name: str, x: Tensor) -> None:
    """Raise a DtypeError unless `x` is floating."""
    if x.dtype.kind != "f":
        raise DtypeError(
            f"{name}: needs floating numbers, got {x.dtype}",
            where=user_line(),
            why="the result is not a whole number",
            fix="convert with x.astype('float32')",
        )
