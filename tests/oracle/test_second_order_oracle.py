"""Products of Hessian and direction equal PyTorch's, for every layer, activation and loss."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import fedcore as fc
from fedcore.autograd.tree import flatten
from tests.golden import families, make_activations
from tests.golden.case import Array, Case, assert_equal_up_to_rounding, normal

pytest.importorskip("torch", reason="PyTorch is not installed (make test-oracle)")
pytestmark = pytest.mark.oracle

# Away from zero, where the second derivative of ELU jumps: ours is there that from the left.
ACTIVATIONS: Mapping[str, Case] = {
    f"activations-{name}{suffix}": make_activations.activation(name, x + 1e-3)
    for name in make_activations.ACTIVATIONS
    for suffix, x in (("", make_activations.ORDINARY), ("_extreme", make_activations.EXTREME))
}
CASES = families.CASES | ACTIVATIONS


def our_product(case: Case) -> dict[str, Array]:
    def loss(values: dict[str, fc.Tensor]) -> fc.Tensor:
        results = flatten(case.ours(values))[0]
        parts = [(y * normal(f"y{i}", *y.shape)).sum() for i, y in enumerate(results)]
        return sum(parts[1:], parts[0])

    def slope(values: dict[str, fc.Tensor]) -> fc.Tensor:
        gradients = fc.grad(loss)(values)
        parts = [(g * normal(f"d {name}", *g.shape)).sum() for name, g in gradients.items()]
        return sum(parts[1:], parts[0])

    values = {name: fc.tensor(value) for name, value in case.values.items()}
    return {f"d {name}": g.numpy() for name, g in fc.grad(slope)(values).items()}


def torch_product(case: Case) -> dict[str, Array]:
    import torch

    values = {n: torch.tensor(value, requires_grad=True) for n, value in case.values.items()}
    leaves = list(values.values())
    # of PyTorch's forms of attention only this one has second derivatives
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        results = case.theirs(torch, values)
    results = list(results) if isinstance(results, tuple | list) else [results]
    loss = sum((y * torch.tensor(normal(f"y{i}", *y.shape))).sum() for i, y in enumerate(results))
    gradients = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
    slope = sum(
        (g * torch.tensor(normal(f"d {name}", *g.shape))).sum()
        for name, g in zip(values, gradients, strict=True)
    )
    if not slope.requires_grad:  # the results are linear in what they are differentiated by
        return {f"d {name}": torch.zeros_like(value).numpy() for name, value in values.items()}
    products = torch.autograd.grad(slope, leaves, materialize_grads=True)
    return {
        f"d {name}": product.numpy(force=True)
        for name, product in zip(values, products, strict=True)
    }


@pytest.mark.parametrize("case", CASES)
def test_the_product_of_hessian_and_direction(case: str) -> None:
    assert_equal_up_to_rounding(our_product(CASES[case]), torch_product(CASES[case]))
