"""What the core promises on a GPU, as tests that run on any device: they agree with NumPy.

The tests of `tests/tensor` prove NumPy's results; these show that the same samples give the same on
the device, by every way in which a primitive is run. A module that imports them provides the
fixture `device`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import fedcore as fc
from fedcore.tensor.backend import Backend, backend_of, to_host
from fedcore.tensor.tensor import Tensor, tensor
from tests.tensor.samples.sample import Sample
from tests.tensor.test_primitives import (
    Calls,
    draw,
    each_differentiable,
    first_samples,
    generator,
    in_lanes,
    inner,
    lane_sizes,
    only_mapped,
    outputs,
    pullback,
    recorded,
    shape_of,
)

__all__ = [
    "arguments",
    "assert_agree",
    "patterns",
    "test_a_replay_on_other_inputs_agrees_with_the_eager_run",
    "test_out_and_operands_in_place_agree_with_a_fresh_result",
    "test_second_derivatives_agree_with_numpy",
    "test_strides_do_not_matter",
    "test_values_and_derivatives_agree_with_numpy",
]

Array = np.ndarray[Any, Any]
Place = Callable[[Array], Any]
Way = list[tuple[bool, ...]]

# Another library adds and multiplies in another order: some roundings of sums of few terms.
CLOSE: dict[Any, Any] = {
    np.dtype(np.float64): {"rtol": 1e-9, "atol": 1e-10},
    np.dtype(np.float32): {"rtol": 2e-3, "atol": 2e-4},
}


def assert_agree(found: Any, expected: Any, device: Backend | None = None) -> None:
    """Tensors or arrays of equal values and types; `found` on the device, if that is given."""
    found, expected = (x.data if isinstance(x, Tensor) else x for x in (found, expected))
    if device is not None:
        assert backend_of(found).name == device.name
    found, expected = to_host(found), to_host(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, **CLOSE.get(found.dtype, {}))


def patterns(one: Sample) -> list[tuple[Way, tuple[int, ...]]]:
    """No lanes, lanes that share every second operand, and two levels that share nothing."""
    size = lane_sizes(one)[-1]
    count = len(one.operands)
    return [
        ([()] * count, ()),
        ([(i % 2 == 0,) for i in range(count)], (size,)),
        ([(True, True)] * count, (size, 2)),
    ]


def arguments(one: Sample, way: Way, sizes: tuple[int, ...], precision: Any) -> list[Array]:
    """A cotangent and the operands, on the host."""
    rng = generator(one)
    xs = only_mapped([np.asarray(x) for x in draw(one, rng, sizes)], way)
    g = rng.standard_normal((*sizes, *shape_of(one)))
    given = [np.asarray(a) for a in (g, *xs)]
    return [a.astype(precision) if a.dtype == np.float64 else a for a in given]


@first_samples
def test_values_and_derivatives_agree_with_numpy(device: Backend, one: Sample) -> None:
    for precision, (way, sizes) in itertools.product(("float64", "float32"), patterns(one)):
        g, *xs = arguments(one, way, sizes, precision)
        if not one.keeps_dtype:
            g = g.astype(np.float64)
        expected = in_lanes(one, xs, g, way, len(sizes))
        placed = [device.asarray(x) for x in xs]
        found = in_lanes(one, placed, device.asarray(g), way, len(sizes))
        for y, e in zip(found, expected, strict=True):
            assert_agree(y, e, device)


@each_differentiable
def test_second_derivatives_agree_with_numpy(device: Backend, one: Sample) -> None:
    g, *xs = arguments(one, [()] * len(one.operands), (), "float64")
    varying = [i for i, operand in enumerate(one.operands) if operand.varies]
    weights = [generator(one).standard_normal(xs[i].shape) for i in varying]

    def slopes(place: Place) -> list[Tensor]:
        def projected(some: list[Any]) -> Any:
            full = [tensor(place(x)) for x in xs]
            for i, x in zip(varying, some[:-1], strict=True):
                full[i] = x
            return inner(pullback(one, full, some[-1])[1], [place(w) for w in weights])

        return list(fc.grad(projected)([tensor(place(x)) for x in (*[xs[i] for i in varying], g)]))

    for y, e in zip(slopes(device.asarray), slopes(np.asarray), strict=True):
        assert_agree(y, e, device)


def calls_of(one: Sample, device: Backend) -> Calls:
    """The calls of the sampled primitive on the device, forward and backward."""
    given = [(arguments(one, way, sizes, "float64"), way, sizes) for way, sizes in patterns(one)]
    with recorded(one.name) as calls:
        for host, way, sizes in given:
            g, *xs = [device.asarray(a) for a in host]
            in_lanes(one, xs, g, way, len(sizes))
    return calls


@first_samples
def test_out_and_operands_in_place_agree_with_a_fresh_result(device: Backend, one: Sample) -> None:
    for prim, xs, params, y in calls_of(one, device).made:
        if prim.view:
            continue  # a replay drops it, or copies what it gives
        kernel = prim.kernels.get(device.name, prim.kernel)
        arrays = [x.data for x in xs]
        out = device.xp.empty(y.data.shape, dtype=y.data.dtype)
        assert kernel(device.xp, *arrays, **params, out=out) is out
        assert_agree(out, y)
        for i, x in enumerate(arrays[: prim.inplace]):
            if (x.shape, x.dtype) == (y.data.shape, y.data.dtype):
                own = x.copy()
                kernel(device.xp, *[*arrays[:i], own, *arrays[i + 1 :]], **params, out=own)
                assert_agree(own, y)


@first_samples
def test_a_replay_on_other_inputs_agrees_with_the_eager_run(device: Backend, one: Sample) -> None:
    way, sizes = patterns(one)[1]

    def run(g: Any, *xs: Any) -> list[Tensor]:
        return in_lanes(one, list(xs), g, way, len(sizes))

    program = fc.compile(run)
    rng = generator(one)
    for _ in range(2):
        g, xs = rng.standard_normal((*sizes, *shape_of(one))), draw(one, rng, sizes)
        given = [tensor(device.asarray(x)) for x in (g, *only_mapped(xs, way))]
        for y, e in zip(program(*given), run(*given), strict=True):
            assert_agree(y, e, device)


@first_samples
def test_strides_do_not_matter(device: Backend, one: Sample) -> None:
    g, *xs = arguments(one, [()] * len(one.operands), (), "float64")
    expected = outputs(one, [tensor(x) for x in xs], tensor(g))
    spread = [
        device.asarray(np.repeat(x, 2, axis=-1))[..., ::2] if x.ndim else device.asarray(x)
        for x in xs
    ]
    turned = [device.asarray(np.array(x.T, order="C")).transpose() for x in xs]
    for other in (spread, turned):
        found = outputs(one, [tensor(x) for x in other], tensor(device.asarray(g)))
        for y, e in zip(found, expected, strict=True):
            assert_agree(y, e, device)
