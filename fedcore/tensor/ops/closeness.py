"""Whether numbers agree up to a tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.tensor.ops.arguments import companion, flag, real
from fedcore.tensor.ops.reduce import all as all_
from fedcore.tensor.primitive import ELEMENTWISE, broadcast_shape, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["allclose", "isclose"]


@primitive(
    batch=ELEMENTWISE,
    shape=broadcast_shape,
    floating=True,
    public=False,
    name="isclose",
)
def isclose_primitive(
    xp: Any, a: Any, b: Any, *, rtol: float, atol: float, equal_nan: bool, out: Any = None
) -> Any:
    """Whether |a - b| <= atol + rtol |b|; infinities are close to themselves."""
    with np.errstate(invalid="ignore"):  # of infinities, which do not count
        near = xp.absolute(a - b) <= xp.absolute(b) * rtol + atol
    close = xp.logical_or(near & xp.isfinite(b), a == b)
    if equal_nan:
        close = xp.logical_or(close, xp.isnan(a) & xp.isnan(b))
    return close if out is None else xp.logical_or(close, False, out=out)


def isclose(
    a: Any, b: Any, *, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Whether the elements of each pair agree: |a - b| <= atol + rtol |b|.

    Infinities agree with themselves, and NaN only with `equal_nan`. Integers are compared in
    float32.
    """
    return _isclose("isclose", a, b, rtol, atol, equal_nan)


def allclose(
    a: Any, b: Any, *, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Whether all pairs agree as in `isclose`.

    >>> bool(allclose([1.0, 2.0], [1.0, 2.000001]))
    True
    """
    return all_(_isclose("allclose", a, b, rtol, atol, equal_nan))


def _isclose(name: str, a: Any, b: Any, rtol: float, atol: float, equal_nan: bool) -> Tensor:
    return isclose_primitive(
        companion(name, a),
        companion(name, b),
        rtol=real(name, "rtol", rtol, low=0.0),
        atol=real(name, "atol", atol, low=0.0),
        equal_nan=flag(name, "equal_nan", equal_nan),
    )


for _operation in (isclose, allclose):
    operations.register(_operation.__name__, _operation)
