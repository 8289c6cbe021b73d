"""Write losses.npz: PyTorch's losses and their gradients, in float64.

Where examples have weights, PyTorch's single losses are weighted and averaged as our reduction
says, sum(w·l) / sum(w): its own `weight` is one of classes, or divides by the number of examples.

Run with an interpreter that has PyTorch: python -m tests.golden.make_losses
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedcore import nn
from tests.golden.case import Array, Case, normal, write
from tests.golden.layouts import channels_first

FILE = Path(__file__).with_name("losses.npz")
Shape = tuple[int, ...]

# our name -> PyTorch's, and the value that our option of the same name has there
NAMES: Mapping[str, str] = {
    "mse": "mse_loss",
    "l1": "l1_loss",
    "huber": "huber_loss",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits",
}


def labels(rows: Shape, classes: int) -> Array:
    """Every class about as often as another."""
    return np.floor(np.abs(normal("labels", *rows)) * 7).astype(np.int64) % classes


def weights(*rows: int) -> Array:
    """One for each example; the first and the last are padding."""
    given = np.abs(normal("weight", *rows))
    given[0] = given[-1] = 0.0
    return given


def cross_entropy(
    logits: Array,
    *,
    weight: Array | None = None,
    class_weight: Array | None = None,
    ignored: int | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Case:
    """Weights of classes and an ignored label are PyTorch's own: they are our weight of 0 or of
    the label's class."""
    chosen = labels(logits.shape[:-1], logits.shape[-1])
    given = weight
    if class_weight is not None:
        given = class_weight[chosen]
    if ignored is not None:
        given = (chosen != ignored).astype(np.float64)

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        losses = torch.nn.functional.cross_entropy(
            channels_first(v["logits"]).contiguous(),
            torch.tensor(chosen),
            weight=None if class_weight is None else torch.tensor(class_weight),
            ignore_index=-100 if ignored is None else ignored,
            reduction=reduction if weight is None else "none",
            label_smoothing=label_smoothing,
        )
        return losses if weight is None else _weighted(torch, losses, weight, reduction)

    return Case(
        {"logits": logits},
        lambda v: nn.cross_entropy(
            v["logits"],
            chosen,
            weight=_like(given, v["logits"]),
            reduction=reduction,
            label_smoothing=label_smoothing,
        ),
        theirs,
    )


def nll(rows: Shape, classes: int, *, weight: Array | None = None, reduction: str = "mean") -> Case:
    """Of log-probabilities."""
    chosen = labels(rows, classes)

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        y = channels_first(torch.log_softmax(v["x"], -1)).contiguous()
        how = reduction if weight is None else "none"
        losses = torch.nn.functional.nll_loss(y, torch.tensor(chosen), reduction=how)
        return losses if weight is None else _weighted(torch, losses, weight, reduction)

    return Case(
        {"x": normal("x", *rows, classes)},
        lambda v: nn.nll(
            nn.log_softmax(v["x"]), chosen, weight=_like(weight, v["x"]), reduction=reduction
        ),
        theirs,
    )


def pair(
    name: str,
    x: Array,
    target: Array,
    *,
    weight: Array | None = None,
    reduction: str = "mean",
    **options: float,
) -> Case:
    """A loss of predictions and targets of one shape; both are differentiated."""

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        losses = getattr(torch.nn.functional, NAMES[name])(
            v["x"], v["target"], reduction=reduction if weight is None else "none", **options
        )
        return losses if weight is None else _weighted(torch, losses, weight, reduction)

    def ours(v: Mapping[str, Any]) -> Any:
        given = _like(weight, v["x"])
        return getattr(nn, name)(v["x"], v["target"], weight=given, reduction=reduction, **options)

    return Case({"x": x, "target": target}, ours, theirs)


def kl_div(
    rows: int, classes: int, *, weight: Array | None = None, reduction: str = "mean"
) -> Case:
    """Our mean is that over rows: PyTorch's "batchmean", for its own "mean" is over all elements.

    One probability is 0, so the target is not differentiated.
    """
    target = np.exp(normal("target", rows, classes))
    target[0, 0] = 0.0
    target /= target.sum(-1, keepdims=True)

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        losses = torch.nn.functional.kl_div(
            torch.log_softmax(v["x"], -1), torch.tensor(target), reduction="none"
        ).sum(-1)
        given = np.ones(rows) if weight is None else weight
        return _weighted(torch, losses, given, reduction)

    return Case(
        {"x": normal("x", rows, classes)},
        lambda v: nn.kl_div(
            nn.log_softmax(v["x"]),
            target.astype(v["x"].dtype),
            weight=_like(weight, v["x"]),
            reduction=reduction,
        ),
        theirs,
    )


def _weighted(torch: Any, losses: Any, weight: Array, reduction: str) -> Any:
    w = torch.tensor(weight).reshape(weight.shape + (1,) * (losses.ndim - weight.ndim))
    w = w.expand(losses.shape)
    total = (w * losses).sum()
    return {"mean": total / w.sum(), "sum": total, "none": w * losses}[reduction]


def _like(weight: Array | None, x: Any) -> Any:
    return None if weight is None else weight.astype(x.dtype)


X, TARGET = normal("x", 5, 3) * 2.0, normal("target", 5, 3)
SHARES = 1.0 / (1.0 + np.exp(-TARGET))
LOGITS, EXTREME_LOGITS = normal("logits", 5, 4) * 3.0, normal("logits", 5, 4) * 1e4

CASES: Mapping[str, Case] = {
    **{
        f"cross_entropy_{how}{suffix}": cross_entropy(
            LOGITS, reduction=how, weight=weight, label_smoothing=0.1 if suffix else 0.0
        )
        for how in ("mean", "sum", "none")
        for suffix, weight in (("", None), ("_smoothed_weighted", weights(5)))
    },
    "cross_entropy_positions": cross_entropy(normal("logits", 2, 3, 4), label_smoothing=0.3),
    "cross_entropy_classes": cross_entropy(LOGITS, class_weight=np.array([0.5, 2.0, 0.0, 1.0])),
    "cross_entropy_ignored": cross_entropy(LOGITS, ignored=1, label_smoothing=0.1),
    "cross_entropy_extreme": cross_entropy(EXTREME_LOGITS, reduction="none"),
    "nll": nll((5,), 4),
    "nll_positions": nll((2, 3), 4, reduction="none"),
    "nll_weighted": nll((5,), 4, weight=weights(5)),
    **{
        f"{name}_{how}{suffix}": pair(
            name,
            X,
            SHARES if name.startswith("binary") else TARGET,
            reduction=how,
            weight=weight,
            **({"delta": 0.7} if name == "huber" else {}),
        )
        for name in NAMES
        for how, suffix, weight in (
            ("mean", "", None),
            ("sum", "", None),
            ("none", "", None),
            ("mean", "_weighted", weights(5)),
            ("mean", "_weighted_elements", weights(5, 3)),
        )
    },
    "huber_default": pair("huber", X, TARGET),
    "binary_extreme": pair(
        "binary_cross_entropy_with_logits",
        np.array([1e4, -1e4, 1e4, -1e4, 60.0]),
        np.array([1.0, 0.0, 0.0, 1.0, 0.5]),
        reduction="none",
    ),
    "kl_div": kl_div(4, 3),
    "kl_div_sum": kl_div(4, 3, reduction="sum"),
    "kl_div_weighted": kl_div(4, 3, weight=weights(4)),
}

if __name__ == "__main__":
    write(FILE, CASES)
