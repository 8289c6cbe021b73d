"""Gradients in lanes equal PyTorch's of each lane alone, for every layer, activation and loss."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import fedcore as fc
from fedcore.autograd.tree import flatten
from tests.golden.case import Array, Case, assert_equal_up_to_rounding, normal, torch_results
from tests.golden.families import CASES

pytest.importorskip("torch", reason="PyTorch is not installed (make test-oracle)")
pytestmark = pytest.mark.oracle

LANES = 3


def our_gradients(
    case: Case, mapped: Mapping[str, Array], shared: Mapping[str, Array]
) -> dict[str, Array]:
    """With respect to all values; those `mapped` have a first axis of lanes."""

    def loss(values: Mapping[str, fc.Tensor]) -> fc.Tensor:
        results = flatten(case.ours(values))[0]
        parts = [(y * normal(f"cotangent {i}", *y.shape)).sum() for i, y in enumerate(results)]
        return sum(parts[1:], parts[0])

    def gradients(mapped: Mapping[str, fc.Tensor], shared: Mapping[str, fc.Tensor]) -> object:
        return fc.grad(loss)({**mapped, **shared})

    found = fc.vmap(gradients, (0, None))(mapped, shared)
    return {f"d {name}": gradient.numpy() for name, gradient in found.items()}


@pytest.mark.parametrize("share", [False, True], ids=["clients", "examples"])
@pytest.mark.parametrize("case", CASES)
def test_each_lane_has_the_gradients_of_itself_alone(case: str, share: bool) -> None:
    """As `clients` all values are mapped, as `examples` the first alone, which is the input."""
    definition = CASES[case]
    names = list(definition.values)[: 1 if share else None]
    mapped = {
        n: definition.values[n] + 0.3 * normal(n, LANES, *definition.values[n].shape) for n in names
    }
    if "binary" in case and "target" in mapped:  # its targets are probabilities
        mapped["target"] = mapped["target"].clip(0.0, 1.0)
    shared = {n: value for n, value in definition.values.items() if n not in mapped}
    found = our_gradients(definition, mapped, shared)
    for lane in range(LANES):
        values = {n: mapped[n][lane] if n in mapped else shared[n] for n in definition.values}
        expected = torch_results(Case(values, definition.ours, definition.theirs))
        assert_equal_up_to_rounding(
            {name: gradient[lane] for name, gradient in found.items()},
            {name: value for name, value in expected.items() if name.startswith("d ")},
        )
