"""A training step as a pure function of flat vectors: replayed by `fit`, mapped over clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from fedcore.autograd.tape import value_and_factored_grad
from fedcore.autograd.tree import map_tree
from fedcore.metrics import Metric, measured
from fedcore.nn.context import Context
from fedcore.nn.module import Module
from fedcore.optim.clipping import clip_by_norm
from fedcore.optim.optimizer import Optimizer, State
from fedcore.tensor.cotangent import Cotangent, as_array
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["Loss", "Step", "skip_empty", "train_step"]

Model = TypeVar("Model", bound=Module)
Step = Callable[..., tuple[Tensor, Tensor, State, Tensor, tuple[Tensor, ...]]]


class Loss(Protocol):
    """The weighted mean over examples of how far a prediction is from its target.

    `weight` (B,) is 0 on rows that pad a batch and 1 elsewhere; the mean of nothing is 0:

    >>> def squared(prediction, target, *, weight):
    ...     return ((prediction - target) ** 2 * weight).sum() / weight.sum().clip(1.0, None)
    >>> squared(tensor([2.0, 9.0]), tensor([0.0, 0.0]), weight=tensor([1.0, 0.0])).item()
    4.0
    """

    def __call__(self, prediction: Tensor, target: Tensor, /, *, weight: Tensor) -> Tensor: ...


def train_step(
    rebuild: Callable[[Tensor], Model],
    *,
    loss: Loss,
    optimizer: Optimizer,
    metrics: Sequence[Metric] = (),
    clip_norm: float | None = None,
) -> Step:
    """One step of training as a pure function, to be compiled or mapped over clients.

    It maps (theta, state, optimizer_state, x, y, weight, key, lr) to (theta, state,
    optimizer_state, loss, sums of the metrics over the batch). `weight` (B,) is 0 on padding, `key`
    is the words of a `Key`. A batch of padding alone still takes a step of zero gradient, which
    momentum, Adam, weight decay and batch statistics turn into a change: where such batches come,
    as from `stack_clients`, wrap the step in `skip_empty`.
    """

    def step(
        theta: Tensor, state: Tensor, moments: State, x: Any, y: Any, weight: Any, key: Any, lr: Any
    ) -> tuple[Tensor, Tensor, State, Tensor, tuple[Tensor, ...]]:
        def objective(theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            model = rebuild(theta)
            ctx = Context(model, training=True, key=key, state=state)
            prediction = model(x, ctx=ctx)
            return loss(prediction, y, weight=weight), (ctx.state, prediction)

        gradient: Cotangent
        (value, (after, prediction)), gradient = value_and_factored_grad(objective, has_aux=True)(
            theta
        )
        if clip_norm is not None:
            gradient = clip_by_norm(gradient, clip_norm)
        elif not getattr(optimizer, "takes_factored", False):
            gradient = as_array(gradient)
        sums = tuple(operations.sum(measured(metric, prediction, y) * weight) for metric in metrics)
        theta, moments = optimizer.step(theta, gradient, moments, lr=lr)
        return theta, after, moments, value, sums

    return step


def skip_empty(step: Step) -> Step:
    """`step`, a `train_step`, which leaves everything as it was at a batch whose weights are all 0.

    Parameters, state and the optimiser's state come back bit for bit, in each lane for itself, and
    the loss is 0: a client that `stack_clients` pads ends where it would end alone.

    >>> import numpy as np
    >>> import fedcore as fc
    >>> from fedcore import nn, optim
    >>> theta, rebuild = fc.ravel(nn.Linear(1, 1, key=0))
    >>> rule = optim.SGD(lr=1.0, weight_decay=0.5)
    >>> step = skip_empty(train_step(rebuild, loss=nn.mse, optimizer=rule))
    >>> x, padding = np.ones((2, 1), np.float32), np.zeros(2, np.float32)
    >>> key = fc.Key(0, "forward").words()
    >>> after, *_ = step(theta, fc.tensor([]), rule.init(theta), x, x, padding, key, 1.0)
    >>> after.tolist() == theta.tolist()
    True
    """

    def careful(
        theta: Tensor, state: Tensor, moments: State, x: Any, y: Any, weight: Any, key: Any, lr: Any
    ) -> tuple[Tensor, Tensor, State, Tensor, tuple[Tensor, ...]]:
        before = (theta, state, moments)
        *after, value, sums = step(theta, state, moments, x, y, weight, key, lr)
        counts = operations.any(tensor(weight) != 0.0)
        theta, state, moments = map_tree(
            lambda new, old: operations.where(counts, new, old), tuple(after), before
        )
        return theta, state, moments, operations.where(counts, value, 0.0), sums

    return careful
