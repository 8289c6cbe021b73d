"""The same steps in PyTorch and JAX on the same GPU, for `gpu_train`.

Each function returns one that makes `STEPS` steps and waits for the device. It raises InstallError
where its system, or a GPU for it, is not there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.tasks import LEARNING_RATE, SIDE, Convolution, Dense, Task
from fedcore.errors import InstallError

__all__ = ["STEPS", "jax_step", "torch_graph_step", "torch_lanes_step", "torch_step"]

STEPS = 50

Steps = Callable[[], None]


def torch_step(task: Task, x: Any, y: Any) -> Steps:
    """Eager PyTorch with cuDNN's fastest convolutions and a fused optimiser."""
    torch = _torch()
    step = _torch_training(torch, task, x, y)

    def steps() -> None:
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()

    return steps


def torch_graph_step(task: Task, x: Any, y: Any) -> Steps:
    """The same step captured in a CUDA graph, so that nothing of Python is left in it."""
    torch = _torch()
    step = _torch_training(torch, task, x, y)
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # capture asks for a warm-up on another stream
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def steps(kept: Any = step) -> None:  # the graph reads the arrays of the step, which owns them
        for _ in range(STEPS):
            graph.replay()
        torch.cuda.synchronize()

    return steps


def torch_lanes_step(task: Task, x: Any, y: Any) -> Steps:
    """`vmap(grad)` over clients; convolutions as matrix products, which `vmap` runs faster."""
    torch = _torch()
    network = _torch_network(torch, task, unfolded=True)
    lanes = len(x)
    parameters = {
        name: value.detach().expand(lanes, *value.shape).clone()
        for name, value in network.named_parameters()
    }

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        logits = torch.func.functional_call(network, parameters, (x,))
        return torch.nn.functional.cross_entropy(logits, y)

    gradient = torch.func.vmap(torch.func.grad(loss))
    images, labels = _torch_batch(torch, x, y)

    def steps() -> None:
        for _ in range(STEPS):
            for name, value in gradient(parameters, images, labels).items():
                parameters[name].sub_(value, alpha=LEARNING_RATE)
        torch.cuda.synchronize()

    return steps


def jax_step(task: Task, x: Any, y: Any, *, lanes: int) -> Steps:
    """`jit` of a step of one model, or of `lanes` models under `vmap`."""
    jax = _imported("jax")
    if not any(device.platform == "gpu" for device in jax.devices()):
        raise InstallError("JAX finds no GPU", why="its devices are CPUs", fix="install jax[cuda]")
    jax.config.update("jax_default_matmul_precision", "highest")
    loss = _jax_loss(jax, task)

    def step(parameters: Any, x: Any, y: Any) -> Any:
        gradient = jax.grad(loss)(parameters, x, y)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, gradient)

    mapped = jax.jit(jax.vmap(step) if lanes else step, donate_argnums=0)
    lead = (lanes,) if lanes else ()
    rng = np.random.default_rng(0)
    parameters = [
        (
            jax.numpy.asarray(0.05 * rng.standard_normal((*lead, *shape), dtype=np.float32)),
            jax.numpy.zeros((*lead, shape[-1])),
        )
        for shape in map(_shape, task.layers)
    ]
    images, labels = jax.numpy.asarray(x), jax.numpy.asarray(y)

    def steps() -> None:
        nonlocal parameters
        for _ in range(STEPS):
            parameters = mapped(parameters, images, labels)
        jax.block_until_ready(parameters)

    return steps


def _shape(layer: Dense | Convolution) -> tuple[int, ...]:
    if isinstance(layer, Dense):
        return layer.inputs, layer.outputs
    return layer.kernel, layer.kernel, layer.inputs, layer.outputs


def _jax_loss(jax: Any, task: Task) -> Callable[[Any, Any, Any], Any]:
    def loss(parameters: Any, x: Any, y: Any) -> Any:
        last = len(task.layers) - 1
        for i, (layer, (weight, bias)) in enumerate(zip(task.layers, parameters, strict=True)):
            if isinstance(layer, Convolution):
                x = jax.lax.conv_general_dilated(
                    x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = jax.nn.relu(x + bias)
                x = jax.lax.reduce_window(
                    x, -np.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
                )
                continue
            x = x.reshape(len(x), -1) @ weight + bias
            x = x if i == last else jax.nn.relu(x)
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1)
        return -chosen.mean()

    return loss


def _torch_training(torch: Any, task: Task, x: Any, y: Any) -> Callable[[], None]:
    network = _torch_network(torch, task, unfolded=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, fused=True)
    images, labels = _torch_batch(torch, x, y)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def _torch_network(torch: Any, task: Task, *, unfolded: bool) -> Any:
    nn = torch.nn

    class Unfolded(nn.Conv2d):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            count, _, height, width = x.shape
            columns = nn.functional.unfold(x, self.kernel_size, padding=self.padding)
            y = self.weight.reshape(self.out_channels, -1) @ columns + self.bias[:, None]
            return y.reshape(count, self.out_channels, height, width)

    class Halved(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            count, channels, height, width = x.shape
            return x.reshape(count, channels, height // 2, 2, width // 2, 2).amax((3, 5))

    layers: list[Any] = []
    last = len(task.layers) - 1
    for i, layer in enumerate(task.layers):
        if isinstance(layer, Convolution):
            convolution = Unfolded if unfolded else nn.Conv2d
            pool = Halved() if unfolded else nn.MaxPool2d(2)
            half = layer.kernel // 2
            layers += [
                convolution(layer.inputs, layer.outputs, layer.kernel, padding=half),
                nn.ReLU(),
                pool,
            ]
            continue
        if not any(isinstance(made, nn.Linear) for made in layers):
            layers.append(nn.Flatten())
        layers.append(nn.Linear(layer.inputs, layer.outputs))
        if i != last:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers).cuda()


def _torch_batch(torch: Any, x: Any, y: Any) -> tuple[Any, Any]:
    images = torch.from_numpy(x).reshape(*x.shape[:-3], 1, SIDE, SIDE)
    return images.cuda(), torch.from_numpy(y).cuda()


def _torch() -> Any:
    torch = _imported("torch")
    if not torch.cuda.is_available():
        raise InstallError(
            "PyTorch finds no GPU", why="this build has none, or the driver", fix="check nvidia-smi"
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    return torch


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InstallError(
            f"{name} is not installed", why=str(error), fix="install its build for CUDA"
        ) from error
