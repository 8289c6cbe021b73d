"""Write per_example.npz: PyTorch's gradients of single examples and clients, for five models.

Run with an interpreter that has PyTorch: python -m tests.golden.make_per_example
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fedcore as fc
from fedcore import nn
from fedcore.tensor.ops.pool import max_pool2d
from tests.golden.case import Array, normal
from tests.golden.layouts import channels_first, channels_last, conv_weight, dense_weight
from tests.golden.make_attention import encoder_layer

FILE = Path(__file__).with_name("per_example.npz")
CLIENTS, BATCH, CLASSES = 3, 4, 3


class Convolutional(nn.Module):
    """Two convolutions, the second by groups, with pooling and a norm between them."""

    def __init__(self) -> None:
        self.first = nn.Conv2d(1, 4, 3, key=0, padding="same")
        self.norm = nn.GroupNorm(2, 4)
        self.second = nn.Conv2d(4, 4, 2, key=1, stride=2, groups=2)
        self.head = nn.Linear(4, CLASSES, key=2)

    def forward(self, x: Any, ctx: Any) -> Any:
        x = max_pool2d(nn.relu(self.norm(self.first(x, ctx=ctx), ctx=ctx)))
        x = nn.silu(self.second(x, ctx=ctx))
        return self.head(nn.flatten(x), ctx=ctx)


class Recurrent(nn.Module):
    """Items looked up, read in order, and the last state classified."""

    def __init__(self, kind: type) -> None:
        self.embedding = nn.Embedding(5, 3, key=0)
        self.layer = kind(3, 3, key=1)
        self.head = nn.Linear(3, CLASSES, key=2)

    def forward(self, x: Any, ctx: Any) -> Any:
        states = self.layer(self.embedding(x, ctx=ctx), ctx=ctx)
        return self.head(nn.last_step(states), ctx=ctx)


class Attentive(nn.Module):
    """An encoder block, whose positions are averaged and classified."""

    def __init__(self) -> None:
        self.block = nn.TransformerEncoderBlock(4, 2, 5, key=0)
        self.head = nn.Linear(4, CLASSES, key=1)

    def forward(self, x: Any, ctx: Any) -> Any:
        return self.head(self.block(x, ctx=ctx).mean(1), ctx=ctx)


def _dense(torch: Any, v: Mapping[str, Any], x: Any, path: str) -> Any:
    return torch.nn.functional.linear(x, dense_weight(v[f"{path}.weight"]), v[f"{path}.bias"])


def _part(v: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {k.removeprefix(f"{path}."): value for k, value in v.items() if k.startswith(f"{path}.")}


def _perceptron(torch: Any, v: Mapping[str, Any], x: Any) -> Any:
    return _dense(torch, v, torch.tanh(_dense(torch, v, x, "layers.0")), "layers.2")


def _convolutional(torch: Any, v: Mapping[str, Any], x: Any) -> Any:
    x = torch.conv2d(channels_first(x), conv_weight(v["first.weight"]), v["first.bias"], padding=1)
    x = torch.relu(torch.nn.functional.group_norm(x, 2, v["norm.weight"], v["norm.bias"]))
    x = torch.nn.functional.max_pool2d(x, 2)
    weight = conv_weight(v["second.weight"])
    x = torch.nn.functional.silu(torch.conv2d(x, weight, v["second.bias"], stride=2, groups=2))
    return _dense(torch, v, channels_last(x).flatten(1), "head")


def _lstm_step(torch: Any, p: Mapping[str, Any], x: Any, h: Any, c: Any) -> Any:
    gates = x @ p["input_weight"] + h @ p["state_weight"] + p["bias"]
    i, f, g, o = gates.chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru_step(torch: Any, p: Mapping[str, Any], x: Any, h: Any, c: Any) -> Any:
    x_r, x_z, x_n = (x @ p["input_weight"] + p["bias"]).chunk(3, dim=-1)
    h_r, h_z, h_n = (h @ p["state_weight"] + p["state_bias"]).chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    return (1 - z) * torch.tanh(x_n + r * h_n) + z * h, c


def _recurrent(step: Callable[..., Any]) -> Callable[..., Any]:
    """Written out, because PyTorch cannot map its own recurrent layers over examples; the stored
    layers say what these compute."""

    def logits(torch: Any, v: Mapping[str, Any], x: Any) -> Any:
        rows = torch.nn.functional.embedding(x, v["embedding.weight"])
        h = c = torch.zeros_like(rows[:, 0])  # an item has as many features as a state
        for t in range(x.shape[1]):
            h, c = step(torch, _part(v, "layer"), rows[:, t], h, c)
        return _dense(torch, v, h, "head")

    return logits


def _attentive(torch: Any, v: Mapping[str, Any], x: Any) -> Any:
    # of PyTorch's forms of attention only this one has second derivatives and is mapped
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        y = encoder_layer(torch, _part(v, "block"), x, 2)
    return _dense(torch, v, y.mean(1), "head")


@dataclass(frozen=True)
class Task:
    """A model, PyTorch's logits with its parameters, inputs (clients, batch, ...), and a norm that
    is shorter than some examples' gradients only."""

    model: Any
    logits: Callable[..., Any]
    x: Array
    clip_norm: float


def tokens(*shape: int) -> Array:
    """Items from 0 to 4."""
    return np.floor(np.abs(normal("tokens", *shape)) * 9).astype(np.int64) % 5


TASKS: Mapping[str, Task] = {
    "perceptron": Task(
        nn.Sequential(nn.Linear(5, 4, key=0), nn.tanh, nn.Linear(4, CLASSES, key=1)),
        _perceptron,
        normal("rows", CLIENTS, BATCH, 5),
        2.3,
    ),
    "convolutional": Task(
        Convolutional(), _convolutional, normal("images", CLIENTS, BATCH, 5, 5, 1), 5.0
    ),
    "lstm": Task(Recurrent(nn.LSTM), _recurrent(_lstm_step), tokens(CLIENTS, BATCH, 4), 1.35),
    "gru": Task(Recurrent(nn.GRU), _recurrent(_gru_step), tokens(CLIENTS, BATCH, 4), 1.75),
    "attentive": Task(Attentive(), _attentive, normal("sequences", CLIENTS, BATCH, 3, 4), 1.5),
}


def given(task: Task) -> tuple[Array, Array, Array]:
    """The clients' parameters (clients, D), labels (clients, batch) and a direction (D,)."""
    size = fc.ravel(task.model)[0].size
    labels = np.floor(np.abs(normal("labels", CLIENTS, BATCH)) * 7).astype(np.int64) % CLASSES
    return normal("theta", CLIENTS, size) * 0.7, labels, normal("direction", size)


def our_results(name: str, dtype: type = np.float64, chunk: int | None = None) -> dict[str, Array]:
    """Gradients of each example at the first client's parameters, of each client at its own, the
    clipped sum with norms and losses, and the product of Hessian and direction."""
    task = TASKS[name]
    rebuild = fc.ravel(task.model)[1]
    thetas, labels, direction = given(task)
    thetas, direction = fc.tensor(thetas.astype(dtype)), fc.tensor(direction.astype(dtype))
    x = fc.tensor(task.x.astype(dtype) if task.x.dtype.kind == "f" else task.x)

    def loss(theta: Any, x: Any, label: Any) -> Any:
        return nn.cross_entropy(rebuild(theta)(x), label)

    def of_one(theta: Any, x: Any, label: Any) -> Any:
        return loss(theta, x.reshape(1, *x.shape), label.reshape(1))

    def slope(theta: Any) -> Any:
        return (fc.grad(loss)(theta, x[0], labels[0]) * direction).sum()

    one = thetas[0]
    total, norms, losses = fc.clipped_sum(of_one, clip_norm=task.clip_norm, chunk=chunk)(
        one, x[0], labels[0]
    )
    found = {
        "examples": fc.vmap(fc.grad(of_one), (None, 0, 0), chunk=chunk)(one, x[0], labels[0]),
        "clients": fc.vmap(fc.grad(loss), chunk=chunk)(thetas, x, labels),
        "clipped": total,
        "norms": norms,
        "losses": losses,
        "hessian": fc.grad(slope)(one),
    }
    return {key: value.numpy() for key, value in found.items()}


def torch_results(name: str) -> dict[str, Array]:
    """The same by PyTorch, in float64."""
    import torch

    task = TASKS[name]
    spec = fc.ravel(task.model)[1].spec
    thetas, labels, direction = map(torch.tensor, given(task))
    x = torch.tensor(task.x)
    grad = torch.func.grad
    # "same", because an encoder layer draws the parameters that ours then replace
    vmap = partial(torch.func.vmap, randomness="same")

    def loss(theta: Any, x: Any, label: Any) -> Any:
        return torch.nn.functional.cross_entropy(task.logits(torch, spec.split(theta), x), label)

    def of_one(theta: Any, x: Any, label: Any) -> Any:
        return loss(theta, x[None], label[None])

    one = thetas[0]
    examples = vmap(grad(of_one), in_dims=(None, 0, 0))(one, x[0], labels[0])
    norms = examples.norm(dim=1)
    found = {
        "examples": examples,
        "clients": vmap(grad(loss))(thetas, x, labels),
        "clipped": ((task.clip_norm / norms).clamp(max=1.0)[:, None] * examples).sum(0),
        "norms": norms,
        "losses": vmap(of_one, in_dims=(None, 0, 0))(one, x[0], labels[0]),
        "hessian": grad(lambda t: (grad(loss)(t, x[0], labels[0]) * direction).sum())(one),
    }
    return {key: value.numpy() for key, value in found.items()}


if __name__ == "__main__":
    np.savez_compressed(
        FILE,
        **{f"{name}/{key}": v for name in TASKS for key, v in torch_results(name).items()},
    )
