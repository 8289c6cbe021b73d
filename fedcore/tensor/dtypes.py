"""Which dtype operands meet in: plain numbers follow tensors, integers follow floating numbers.

Two floating dtypes never meet: NumPy would silently compute in the wider one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.errors import DtypeError, user_line
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["unify_dtypes", "weak_dtype"]


def unify_dtypes(name: str, xs: list[Tensor]) -> list[Tensor]:
    """The operands of the operation `name` in one dtype: integers follow the floating ones.

    Raises: DtypeError for two floating dtypes, and for integers that no integer type can hold.
    """
    dtypes = {x.data.dtype for x in xs}
    if len(dtypes) == 1:
        return xs
    floating = {d for d in dtypes if d.kind == "f"}
    dtype = np.result_type(*(floating or dtypes))
    if len(floating) > 1 or (dtype.kind == "f" and not floating):
        raise DtypeError(
            f"{name}: the operands are of " + " and ".join(sorted(str(d) for d in dtypes)),
            where=user_line(),
            why="mixing precisions would silently turn the work into float64",
            fix="convert one of them, for example x.astype('float32')",
        )
    return [x if x.data.dtype == dtype else operations.cast(x, dtype=dtype) for x in xs]


def weak_dtype(name: str, value: Any, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that the plain number `value` takes beside a tensor of `dtype`.

    Raises: DtypeError if the number does not fit into it.

    >>> weak_dtype("add", 0.5, np.dtype(np.int64))
    dtype('float32')
    """
    if (type(value) is float and dtype.kind == "f") or isinstance(value, bool | np.bool_):
        return dtype
    if isinstance(value, float | np.floating):
        return dtype if dtype.kind == "f" else np.dtype(np.float32)
    if dtype.kind == "b":
        dtype = np.dtype(np.int64)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if not limits.min <= value <= limits.max:
        raise DtypeError(
            f"{name}: the number {value} does not fit into {dtype}",
            where=user_line(),
            why="a plain number takes the dtype of the tensor beside it",
            fix="convert the tensor to a wider dtype with astype",
        )
    return dtype
