"""Values that must lie between two bounds, checked where they are computed with.

The check is a kernel of its own, so that a replay makes it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fedcore.errors import FedcoreError
from fedcore.tensor.primitive import ELEMENTWISE, broadcast_shape, primitive

__all__ = ["bounded"]


@primitive(
    batch=ELEMENTWISE,
    shape=broadcast_shape,
    inplace=1,
    public=False,
    vjps=(lambda g, y, x, **_: g,),
)
def bounded(
    xp: Any,
    x: Any,
    *,
    low: float,
    high: float,
    error: type[FedcoreError],
    what: str,
    why: str,
    fix: str,
    out: Any = None,
) -> Any:
    """`x` itself. Raises: `error` if a value is below `low`, above `high` or NaN.

    On a GPU the check would wait for the device; there is none.
    """
    if xp is np and x.size and not (x.min() >= low and x.max() <= high):
        raise error(f"{what} lie in [{x.min()}, {x.max()}]", why=why, fix=fix)
    if out is None:
        out = xp.empty(x.shape, dtype=x.dtype)
    xp.copyto(out, x)
    return out


@bounded.prepared("numpy")
def _prepare(
    xp: Any, x: Any, *, low: float, high: float, out: Any, **told: Any
) -> Callable[[], None] | None:
    """The same on fixed buffers, without a look at a bound that nothing exceeds."""
    if not x.size:
        return None
    open_above = high == math.inf

    def run() -> None:
        # The least of values with NaN among them is NaN, and not at least anything.
        within = np.minimum.reduce(x, axis=None) >= low
        if not (within and (open_above or np.maximum.reduce(x, axis=None) <= high)):
            bounded.kernel(np, x, low=low, high=high, out=out, **told)
        np.copyto(out, x)

    return run
