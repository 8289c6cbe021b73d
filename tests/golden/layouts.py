"""From our layouts, channels last and inputs before outputs, to PyTorch's, in its own operations.

A gradient taken through them comes back in our layout.
"""

from __future__ import annotations

from typing import Any


def channels_first(x: Any) -> Any:
    """(N, ..., C) -> (N, C, ...)."""
    return x.movedim(-1, 1)


def channels_last(y: Any) -> Any:
    """(N, C, ...) -> (N, ..., C)."""
    return y.movedim(1, -1)


def dense_weight(w: Any) -> Any:
    """(inputs, outputs) -> (outputs, inputs); of recurrent layers with all gates beside another."""
    return w.T


def conv_weight(w: Any) -> Any:
    """(K, ..., C / groups, F) -> (F, C / groups, K, ...), also for transposed convolutions.

    As a copy: PyTorch 2.13 refuses to differentiate a transposed convolution by some views.
    """
    return w.movedim((-1, -2), (0, 1)).contiguous()
