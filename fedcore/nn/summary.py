"""`summary`: a model as a table of layers, output shapes, parameters and FLOPs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.autograd.tree import flatten
from fedcore.errors import ShapeError
from fedcore.nn.context import Context
from fedcore.nn.trace import LayerCall, Trace
from fedcore.nn.tree import ModuleTree
from fedcore.tensor.backend import Backend, current_backend
from fedcore.tensor.ops.arguments import element_type, lengths
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["summary"]

HEADER = ("layer", "kind", "output", "parameters", "bytes", "FLOPs")


def summary(model: Any, input_shape: int | tuple[int, ...], *, dtype: str = "float32") -> str:
    """A table of the layers of `model` as one example of `input_shape` passes through them.

    Output shapes are without the batch axis. FLOPs are those of matrix products and convolutions in
    one forward pass of one example; parameters and bytes count what is trained.
    Raises: ShapeError for what is no shape, what the layers raise for an input of that shape.

    >>> from fedcore.nn.linear import Linear
    >>> print(summary(Linear(4, 3, key=0), (4,)))
    layer    kind    output  parameters  bytes  FLOPs
    (model)  Linear  (3,)            15     60     24
    total                            15     60     24
    """
    try:
        shape = lengths("summary", input_shape, option="input_shape", least=1)
    except ShapeError as error:
        error.fix = "pass the shape of one example, without a batch axis, such as (8, 8, 1)"
        raise
    given = np.zeros((1, *shape), dtype=element_type("summary", dtype))
    trace = Trace()
    ctx = Context(model)
    ctx.trace = trace
    with trace.listening():
        model(_device(model).asarray(given), ctx=ctx)
    rows = [_row(call) for call in trace.calls if _is_row(call)]
    total = _sizes(model)
    last = ("total", "", "", f"{total[0]:,}", f"{total[1]:,}", f"{trace.calls[0].flops:,}")
    return _table([HEADER, *rows, last])


def _device(model: Any) -> Backend:
    """Where the parameters are."""
    return next((tensor(value).backend for value in flatten(model)[0]), current_backend())


def _is_row(call: LayerCall) -> bool:
    """Whether a call belongs in the table: the layers, not what only groups them."""
    children = call.module.tree_children()[1]
    return not any(isinstance(child, ModuleTree) for child in children)


def _row(call: LayerCall) -> tuple[str, ...]:
    count, size = _sizes(call.module)
    kind = type(call.module).__name__
    shapes = [tensor(y).shape[1:] for y in flatten(call.output)[0] if isinstance(y, Tensor)]
    shown = ", ".join(map(str, shapes))
    return (call.path or "(model)", kind, shown, f"{count:,}", f"{size:,}", f"{call.flops:,}")


def _sizes(model: Any) -> tuple[int, int]:
    leaves = [tensor(value) for value in flatten(model)[0]]
    return sum(x.size for x in leaves), sum(x.size * x.dtype.itemsize for x in leaves)


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)
