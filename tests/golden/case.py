"""A computation written twice, ours and PyTorch's, and what each gives: values and gradients.

Both forms take the same arrays in our layout, so that PyTorch's own backward pass returns its
gradients in our layout too. Its form gets the module `torch` as an argument: cases can be read, and
compared with what is stored, where PyTorch is not installed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fedcore as fc
from fedcore.autograd.tree import flatten, flatten_paths, unflatten

Array = NDArray[Any]
Ours = Callable[[Mapping[str, fc.Tensor]], Any]
Theirs = Callable[[Any, Mapping[str, Any]], Any]

# The sums compared here have up to a few hundred terms, and a gradient passes a few of them: the
# roundings of a random walk of 10,000 steps.
ROUNDINGS = 100


@dataclass(frozen=True)
class Case:
    """`ours(values)` and `theirs(torch, values)`, each one result or several."""

    values: Mapping[str, Array]
    ours: Ours
    theirs: Theirs


def normal(label: str, *shape: int) -> Array:
    """Normal numbers that depend on the label alone."""
    key = [2026, zlib.crc32(label.encode())]
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape)


def layer_case(
    layer: Any, theirs: Theirs, *, call: Callable[[Any, Mapping[str, Any]], Any], **inputs: Array
) -> Case:
    """A case of `call(layer, inputs)`; its values are the inputs and the parameters by path."""
    pairs, structure = flatten_paths(layer)
    parameters = {path: normal(path, *value.shape) for path, value in pairs}

    def ours(values: Mapping[str, fc.Tensor]) -> Any:
        return call(unflatten(structure, [values[path] for path, _ in pairs]), values)

    return Case({**inputs, **parameters}, ours, theirs)


def our_results(case: Case, dtype: type = np.float64) -> dict[str, Array]:
    """Our values "y0", "y1", ... and, under "d name", the gradients of their random combination."""
    values = {name: fc.tensor(value.astype(dtype)) for name, value in case.values.items()}
    results, pullback = fc.vjp(lambda values: flatten(case.ours(values))[0], values)
    (gradients,) = pullback(_cotangents(results))
    found = {f"y{i}": result.numpy() for i, result in enumerate(results)}
    return found | {f"d {name}": gradients[name].numpy() for name in values}


def torch_results(case: Case) -> dict[str, Array]:
    """As `our_results`, by PyTorch in float64."""
    import torch

    values = {n: torch.tensor(value, requires_grad=True) for n, value in case.values.items()}
    results = case.theirs(torch, values)
    results = list(results) if isinstance(results, tuple | list) else [results]
    cotangents = [torch.tensor(g) for g in _cotangents(results)]
    gradients = torch.autograd.grad(
        results, list(values.values()), cotangents, materialize_grads=True
    )
    found = {f"y{i}": result.detach().numpy() for i, result in enumerate(results)}
    return found | {f"d {n}": g.numpy() for n, g in zip(values, gradients, strict=True)}


def _cotangents(results: list[Any]) -> list[Array]:
    return [normal(f"cotangent {i}", *y.shape) for i, y in enumerate(results)]


def assert_equal_up_to_rounding(
    found: Mapping[str, Array], expected: Mapping[str, Array], *, roundings: float = ROUNDINGS
) -> None:
    """Equal names, and equal arrays up to so many roundings of the largest value or gradient.

    The largest of all gradients, because one may be a sum that cancels from terms as large as those
    of the others: by the bias of attention's keys it is always zero.
    """
    assert sorted(found) == sorted(expected)
    for name, value in found.items():
        scale = max(
            float(np.abs(array).max(initial=1.0))
            for other, array in expected.items()
            if other.startswith("d ") == name.startswith("d ")
        )
        np.testing.assert_allclose(
            value,
            expected[name].astype(value.dtype),
            rtol=0,
            atol=roundings * scale * float(np.finfo(value.dtype).eps),
            err_msg=name,
            strict=True,
        )


def write(file: Path, cases: Mapping[str, Case]) -> None:
    """Store PyTorch's results of all cases."""
    arrays = {
        f"{case}/{name}": value
        for case, definition in cases.items()
        for name, value in torch_results(definition).items()
    }
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read(file: Path, case: str) -> dict[str, Array]:
    """What `write` stored of one case."""
    with np.load(file) as stored:
        prefix = f"{case}/"
        return {
            name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)
        }
