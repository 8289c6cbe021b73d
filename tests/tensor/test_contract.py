"""Contraction by subscripts equals einsum, in lanes too, and differentiates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import fedcore as fc
from fedcore.errors import ArgumentError, ShapeError
from fedcore.tensor.ops.contract import contract, norm, outer, tensordot
from fedcore.tensor.tensor import tensor


@st.composite
def contractions(draw: Any) -> tuple[str, list[Any]]:
    """Subscripts of one to four operands over five letters, with operands that fit."""
    sizes = {a: draw(st.integers(1, 3)) for a in "abcde"}
    subsets = st.lists(st.sampled_from("abcde"), unique=True, max_size=4).map("".join)
    terms = draw(st.lists(subsets, min_size=1, max_size=4))
    present = sorted(set("".join(terms)))
    output = draw(st.permutations(present))[: draw(st.integers(0, len(present)))]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    operands = [rng.standard_normal([sizes[a] for a in term]) for term in terms]
    explicit = draw(st.booleans())
    return ",".join(terms) + (f"->{''.join(output)}" if explicit else ""), operands


@given(contractions())
def test_contraction_equals_einsum(case: tuple[str, list[Any]]) -> None:
    subscripts, operands = case
    expected = np.einsum(subscripts, *operands)
    found = contract(subscripts, *[tensor(x) for x in operands])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)


@given(contractions())
def test_the_derivative_of_a_contraction_is_its_slope(case: tuple[str, list[Any]]) -> None:
    """A contraction is linear in each operand: its value at a direction is its slope there."""
    subscripts, operands = case
    along = np.random.default_rng(1).standard_normal(operands[0].shape)
    rest = [tensor(x) for x in operands[1:]]
    gradient = fc.grad(lambda x: contract(subscripts, x, *rest).sum())(tensor(operands[0]))
    slope = contract(subscripts, tensor(along), *rest).sum().item()
    np.testing.assert_allclose((gradient.numpy() * along).sum(), slope, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
def test_each_lane_of_a_contraction_equals_einsum(axes: tuple[int | None, int | None]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 3, 2, 4)), rng.standard_normal((3, 3, 4, 5))
    a, b = (x if axis == 0 else x[0] for x, axis in zip((a, b), axes, strict=True))
    found = fc.vmap(lambda a, b: contract("bij,bjk->ikb", a, b), axes)(tensor(a), tensor(b))
    for lane in range(3):
        one, two = (x[lane] if axis == 0 else x for x, axis in zip((a, b), axes, strict=True))
        expected = np.einsum("bij,bjk->ikb", one, two)
        np.testing.assert_allclose(found.numpy()[lane], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ii->i", [(2, 2)], "diagonal"),
        ("ij->ii", [(2, 2)], "diagonal"),
        ("ij,jk", [(2, 2)], "2 terms for 1 operands"),
        ("ij->k", [(2, 2)], "no operand has k"),
        ("ijk->i", [(2, 2)], "does not name the axes"),
        ("i1->i", [(2, 2)], "one letter"),
    ],
)
def test_subscripts_that_do_not_fit_are_refused(
    subscripts: str, shapes: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        contract(subscripts, *[tensor(np.ones(shape)) for shape in shapes])


def test_lengths_that_differ_are_named_with_their_letter() -> None:
    with pytest.raises(ShapeError, match="axis j has lengths 3 and 4"):
        contract("ij,jk->ik", tensor(np.ones((2, 3))), tensor(np.ones((4, 5))))


def test_outer_and_tensordot_follow_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((3, 4, 5))
    for axes, other in ((2, b), (0, b), (1, b.transpose(1, 0, 2))):
        found = tensordot(tensor(a), tensor(other), axes=axes).numpy()
        np.testing.assert_allclose(found, np.tensordot(a, other, axes), rtol=1e-12)
    found = outer(tensor(a[0, 0]), tensor(b[0, 0])).numpy()
    np.testing.assert_array_equal(found, np.outer(a[0, 0], b[0, 0]))
    with pytest.raises(ShapeError, match="tensordot"):
        tensordot(tensor(a), tensor(b), axes=1)
    with pytest.raises(ShapeError, match="outer"):
        outer(tensor(a), tensor(b))


def test_norms_follow_numpy() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_allclose(norm(tensor(x)).item(), np.linalg.norm(x), rtol=1e-12)
    found = norm(tensor(x), axis=1, keepdims=True).numpy()
    np.testing.assert_allclose(found, np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-12)


@given(st.integers(0, 2), st.integers(0, 2))
def test_dot_is_numpys_up_to_matrices_and_refuses_more(left: int, right: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 3)[:left]), rng.standard_normal((3, 3)[:right])
    np.testing.assert_allclose(fc.dot(tensor(a), tensor(b)).numpy(), np.dot(a, b), rtol=1e-12)
    np.testing.assert_allclose(tensor(a).dot(tensor(b)).numpy(), np.dot(a, b), rtol=1e-12)
    for pair in ((np.ones((2, 3, 3)), b), (a, np.ones((2, 3, 3)))):
        with pytest.raises(ShapeError, match="dot: shapes"):
            fc.dot(*pair)
