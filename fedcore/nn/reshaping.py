"""`flatten`: what stands between convolutions and dense layers."""

from __future__ import annotations

from fedcore.errors import ShapeError, user_line
from fedcore.nn.checks import expect_tensor
from fedcore.tensor.tensor import Tensor

__all__ = ["flatten"]


def flatten(x: Tensor) -> Tensor:
    """All axes of an example in one: x (N, ...) -> (N, K).

    Raises: ShapeError for a 0-d tensor.

    >>> from fedcore.tensor.tensor import tensor
    >>> flatten(tensor([[[1.0, 2.0]], [[3.0, 4.0]]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    expect_tensor(x)
    if x.ndim == 0:
        raise ShapeError(
            "flatten: a 0-d tensor has no examples",
            where=user_line(),
            why="the first axis counts the examples",
            fix="pass a batch, with reshape(1, ...) for one example",
        )
    count = 1
    for length in x.shape[1:]:
        count *= length
    return x.reshape(x.shape[0], count)
