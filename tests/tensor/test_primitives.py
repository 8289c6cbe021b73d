"""Every primitive keeps the contracts of the core, checked from the registry on its samples."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.tensor.primitive import Primitive, primitives
from fedcore.tensor.tensor import Tensor, interpreter, tensor
from tests.tensor.poisoned import poison_scratch
from tests.tensor.samples import SAMPLES
from tests.tensor.samples.sample import Sample

Array = np.ndarray[Any, Any]
DIFFERENTIABLE = [s for s in SAMPLES if s.differentiable]
STEP = 1e-6  # central differences of values near 1 in float64: errors near STEP² and 1e-16 / STEP
SLOPES: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-7}
SAME: dict[str, Any] = {
    "rtol": 1e-11,
    "atol": 1e-12,
}  # BLAS may order a sum differently at another address

# Of each primitive one sample is quick where a test takes long.
FIRST = {s.name: s for s in reversed(SAMPLES)}
MOSTLY_SLOW = [
    pytest.param(s, id=str(s), marks=() if FIRST[s.name] is s else pytest.mark.slow)
    for s in SAMPLES
]

each_sample = pytest.mark.parametrize("one", SAMPLES, ids=str)
first_samples = pytest.mark.parametrize("one", MOSTLY_SLOW)
each_differentiable = pytest.mark.parametrize("one", DIFFERENTIABLE, ids=str)


def generator(one: Sample) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(str(one).encode()))


def draw(one: Sample, rng: np.random.Generator, lanes: tuple[int, ...] = ()) -> list[Array]:
    return [operand.array(rng, lanes) for operand in one.operands]


def value(one: Sample, xs: Sequence[Any]) -> Tensor:
    return tensor(one(*[tensor(x) for x in xs]))


def pullback(one: Sample, xs: Sequence[Any], g: Any) -> tuple[Tensor, list[Tensor]]:
    """The value and the cotangents of the operands that vary."""
    varying = [i for i, operand in enumerate(one.operands) if operand.varies]

    def function(*some: Any) -> Any:
        full = list(xs)
        for i, x in zip(varying, some, strict=True):
            full[i] = x
        return one(*full)

    y, back = fc.vjp(function, *[xs[i] for i in varying])
    return y, list(back(g))


def inner(arrays: Sequence[Any], directions: Sequence[Array]) -> Any:
    """The sum of the elementwise products of corresponding arrays."""
    total: Any = 0.0
    for a, d in zip(arrays, directions, strict=True):
        total = total + (a * d).sum()
    return total


def slope(function: Callable[[list[Array]], Any], xs: list[Array], along: list[Array]) -> float:
    """The derivative of `function` at `xs` in a direction, by central differences."""
    ahead, behind = (
        float(function([x + (s * d).astype(x.dtype) for x, d in zip(xs, along, strict=True)]))
        for s in (STEP, -STEP)
    )
    return (ahead - behind) / (2 * STEP)


def directions(one: Sample, xs: list[Array], rng: np.random.Generator) -> list[Array]:
    """A random direction in which the varying operands move and the others stand still."""
    return [
        rng.standard_normal(x.shape) if operand.varies else np.zeros((), dtype=x.dtype)
        for operand, x in zip(one.operands, xs, strict=True)
    ]


def test_every_primitive_has_a_sample_and_every_sample_a_primitive() -> None:
    sampled = {s.name for s in SAMPLES}
    assert (set(primitives) - sampled, sampled - set(primitives)) == (set(), set())


# ---- derivatives


@each_differentiable
def test_the_derivative_is_the_slope_in_a_random_direction(one: Sample) -> None:
    rng = generator(one)
    xs = draw(one, rng)
    along = directions(one, xs, rng)
    g = rng.standard_normal(value(one, xs).shape)
    _, gradients = pullback(one, [tensor(x) for x in xs], tensor(g))
    moved = [d for operand, d in zip(one.operands, along, strict=True) if operand.varies]
    expected = slope(lambda at: inner([value(one, at)], [g]), xs, along)
    np.testing.assert_allclose(float(inner(gradients, moved)), expected, **SLOPES)


@each_differentiable
def test_the_derivative_of_the_derivative_is_its_slope(one: Sample) -> None:
    for lanes in (0, 2):
        assert_second_derivative_is_the_slope(one, lanes)


def assert_second_derivative_is_the_slope(one: Sample, lanes: int) -> None:
    """Also with respect to the cotangent, and through lanes that share every second operand."""
    rng = generator(one)
    mapped = tuple(0 if lanes and i % 2 == 0 else None for i in range(len(one.operands)))
    xs = [
        operand.array(rng, (lanes,) if axis == 0 else ())
        for operand, axis in zip(one.operands, mapped, strict=True)
    ]
    function = Sample(one.name, one.operands, through=fc.vmap(one, mapped) if lanes else one)
    g = rng.standard_normal(value(function, xs).shape)
    varying = [i for i, operand in enumerate(one.operands) if operand.varies]
    weights = [rng.standard_normal(xs[i].shape) for i in varying]
    along = [*directions(one, xs, rng), rng.standard_normal(g.shape)]

    def projected(some: list[Any]) -> Any:
        full = [tensor(x) for x in xs]
        for i, x in zip(varying, some[:-1], strict=True):
            full[i] = x
        return inner(pullback(function, full, some[-1])[1], weights)

    point = [tensor(x) for x in [*[xs[i] for i in varying], g]]
    moved = [along[i] for i in [*varying, -1]]
    expected = slope(
        lambda at: projected([tensor(x) for x in at]), [x.numpy() for x in point], moved
    )
    found = float(inner(fc.grad(projected)(point), moved))
    np.testing.assert_allclose(found, expected, **SLOPES)


# ---- lanes


def outputs(one: Sample, xs: Sequence[Any], g: Any) -> list[Tensor]:
    """The value, followed by the cotangents where there are any."""
    if not one.differentiable:
        return [value(one, xs)]
    y, gradients = pullback(one, xs, g)
    return [y, *gradients]


def lane_sizes(one: Sample) -> list[int]:
    """Numbers of lanes that collide with core lengths, and one that does not."""
    lengths = {n for operand in one.operands for n in operand.shape if 1 < n < 6}
    return sorted({*([min(lengths), max(lengths)] if lengths else []), 2})


def mappings(count: int, levels: int, most: int) -> list[tuple[tuple[bool, ...], ...]]:
    """For each operand, in which levels it is mapped: all ways, or about so many of them."""
    ways = list(itertools.product(itertools.product((False, True), repeat=levels), repeat=count))
    if len(ways) <= most:
        return ways
    chosen = np.random.default_rng(0).choice(len(ways), most, replace=False)
    return [ways[i] for i in sorted({0, len(ways) - 1, *chosen.tolist()})]


def in_lanes(
    one: Sample, xs: Sequence[Any], g: Any, way: Sequence[tuple[bool, ...]], depth: int
) -> list[Tensor]:
    """All outputs, with the operands mapped at each level as `way` says; g is always mapped."""

    def level(at: int) -> Callable[..., Any]:
        if at == depth:
            return lambda g, *args: outputs(one, args, g)
        return fc.vmap(level(at + 1), (0, *[0 if mapped[at] else None for mapped in way]))

    found: list[Tensor] = level(0)(tensor(g), *[tensor(x) for x in xs])
    return found


def only_mapped(full: list[Array], way: Sequence[tuple[bool, ...]]) -> list[Array]:
    """The operands without the lane axes at which they are not mapped."""
    return [
        x[tuple(slice(None) if m else 0 for m in mapped)]
        for x, mapped in zip(full, way, strict=True)
    ]


def at_lane(x: Array, mapped: tuple[bool, ...], lane: tuple[int, ...]) -> Array:
    own: Array = x[tuple(i for i, m in zip(lane, mapped, strict=True) if m)]
    return own


def assert_lanes_equal_loop(one: Sample, sizes: tuple[int, ...], *, ways: int = 24) -> None:
    rng = generator(one)
    full = draw(one, rng, sizes)
    shape = value(one, [x[(0,) * len(sizes)] for x in full]).shape
    g = rng.standard_normal((*sizes, *shape))
    for way in mappings(len(one.operands), len(sizes), ways):
        xs = only_mapped(full, way)
        found = [y.numpy() for y in in_lanes(one, xs, g, way, len(sizes))]
        for lane in np.ndindex(*sizes):
            args = [tensor(at_lane(x, m, lane)) for x, m in zip(xs, way, strict=True)]
            for y, expected in zip(found, outputs(one, args, tensor(g[lane])), strict=True):
                np.testing.assert_allclose(y[lane], expected.numpy(), **SAME, err_msg=str(way))


@each_sample
def test_each_lane_equals_the_loop(one: Sample) -> None:
    for size in lane_sizes(one):
        assert_lanes_equal_loop(one, (size,))


@first_samples
def test_each_lane_of_two_nested_levels_equals_the_loop(one: Sample) -> None:
    assert_lanes_equal_loop(one, (3, 2), ways=4)


@pytest.mark.slow
@each_sample
def test_each_lane_of_two_levels_in_every_way_equals_the_loop(one: Sample) -> None:
    sizes = lane_sizes(one)
    assert_lanes_equal_loop(one, (sizes[-1], sizes[0]))


# ---- kernels


Call = tuple[Primitive, list[Tensor], dict[str, Any], Tensor]


class Calls:
    """Every kernel call of one primitive."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.made: list[Call] = []

    def record(self, prim: Primitive, xs: list[Tensor], params: dict[str, Any], y: Tensor) -> None:
        if prim.name == self.name:
            self.made.append((prim, xs, params, y))


@contextmanager
def recorded(name: str) -> Iterator[Calls]:
    calls = Calls(name)
    interpreter.recorder = calls
    try:
        yield calls
    finally:
        interpreter.recorder = None


def calls_of(one: Sample) -> list[Call]:
    """The calls of the sampled primitive, forward and backward, without lanes and with some."""
    rng = generator(one)
    size = lane_sizes(one)[-1]
    nowhere, alternating, everywhere = ((), (True, False), (True,))
    with recorded(one.name) as calls:
        for pattern, sizes in ((nowhere, ()), (alternating, (size,)), (everywhere, (size, 3))):
            way = [
                tuple(pattern[(i + at) % len(pattern)] for at in range(len(sizes)))
                for i in range(len(one.operands))
            ]
            g = rng.standard_normal((*sizes, *shape_of(one)))
            in_lanes(one, only_mapped(draw(one, rng, sizes), way), g, way, len(sizes))
    return calls.made


def shape_of(one: Sample) -> tuple[int, ...]:
    return value(one, draw(one, generator(one))).shape


def garbage_like(array: Array) -> Array:
    """A buffer of the same layout in memory, full of what must not shine through."""
    out = np.empty_like(array)
    out.fill(np.frombuffer(b"\xa5" * out.itemsize, out.dtype)[0])
    return out


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_shape_rule_is_the_real_shape(call: Call) -> None:
    prim, xs, params, y = call
    assert prim.shape(*[x.shape for x in xs], **params) == y.shape
    hash(tuple(sorted(params.items())))


def assert_out_gets_the_same_bits(call: Call) -> None:
    prim, xs, params, y = call
    if prim.view and (y.size == 0 or np.may_share_memory(y.data, xs[0].data)):
        return  # a replay drops it
    out = garbage_like(y.data)
    result = prim.kernel(np, *[x.data for x in xs], **params, out=out)
    assert result is out
    assert same_bits(out, y.data)


def assert_out_may_be_an_operand(call: Call) -> None:
    prim, xs, params, y = call
    for i, x in enumerate(xs[: prim.inplace]):
        if x.data.shape == y.data.shape and x.data.dtype == y.data.dtype:
            for run in (prim.kernel, *prepared_kernels(prim)):
                arrays = [x.data for x in xs]
                arrays[i] = out = x.data.copy()
                run(np, *arrays, **params, out=out)
                assert same_bits(out, y.data)


def assert_prepared_call_leaves_the_bits_of_the_kernel(call: Call) -> None:
    prim, xs, params, y = call
    for kernel in prepared_kernels(prim):
        out = garbage_like(y.data)
        kernel(np, *[x.data for x in xs], **params, out=out)
        assert same_bits(out, y.data)


def prepared_kernels(prim: Primitive) -> list[Callable[..., Any]]:
    """The preparation as a kernel: it is prepared on buffers that are filled only afterwards."""
    prepare = prim.preparations.get("numpy")
    if prepare is None:
        return []

    def kernel(xp: Any, *arrays: Array, out: Array, **params: Any) -> Array:
        target = garbage_like(out)
        buffers = [target if a is out else garbage_like(a) for a in arrays]
        run = prepare(xp, *buffers, out=target, **params)
        if run is None:
            return prim.kernel(xp, *arrays, out=out, **params)  # type: ignore[no-any-return]
        for buffer, array in zip(buffers, arrays, strict=True):
            np.copyto(buffer, array)
        run()
        np.copyto(out, target)
        return out

    return [kernel]


@each_sample
def test_a_kernel_keeps_its_contract_in_every_call(one: Sample) -> None:
    made = calls_of(one)
    assert made, f"the sample never calls {one.name}"
    for call in made:
        assert_shape_rule_is_the_real_shape(call)
        assert_out_gets_the_same_bits(call)
        assert_out_may_be_an_operand(call)
        assert_prepared_call_leaves_the_bits_of_the_kernel(call)


@first_samples
def test_a_replay_on_other_inputs_gives_the_bits_of_the_eager_run(
    one: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_scratch(monkeypatch)
    for lanes in ((), (3,)):
        assert_replay_gives_the_bits_of_the_eager_run(one, lanes)


def assert_replay_gives_the_bits_of_the_eager_run(one: Sample, lanes: tuple[int, ...]) -> None:
    """With every second operand shared by the lanes."""
    rng = generator(one)
    way = [(i % 2 == 0,) * len(lanes) for i in range(len(one.operands))]

    def run(g: Any, *xs: Any) -> list[Tensor]:
        return in_lanes(one, list(xs), g, way, len(lanes))

    program = fc.compile(run)
    for _ in range(3):
        g = rng.standard_normal((*lanes, *shape_of(one)))
        arguments = [tensor(x) for x in (g, *only_mapped(draw(one, rng, lanes), way))]
        for y, expected in zip(program(*arguments), run(*arguments), strict=True):
            assert same_bits(y.numpy(), expected.numpy())


@each_sample
def test_strides_do_not_matter(one: Sample) -> None:
    xs = draw(one, generator(one))
    g = np.ones(shape_of(one))
    spread = [np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x for x in xs]
    turned = [np.asarray(x, order="F") for x in xs]
    expected = [y.numpy() for y in outputs(one, [tensor(x) for x in xs], tensor(g))]
    for other in (spread, turned):
        found = outputs(one, [tensor(x) for x in other], tensor(g))
        for y, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(y.numpy(), e, **SAME)


@each_sample
def test_float32_stays_float32(one: Sample) -> None:
    xs = draw(one, generator(one))
    g = np.ones(shape_of(one))
    exact = outputs(one, [tensor(x) for x in xs], tensor(g))
    small = [x.astype(np.float32) if x.dtype == np.float64 else x for x in xs]
    seed = np.ones(g.shape, np.float32 if one.keeps_dtype else exact[0].dtype)
    found = outputs(one, [tensor(x) for x in small], tensor(seed))
    for position, (y, e) in enumerate(zip(found, exact, strict=True)):
        if e.dtype == np.float64 and (one.keeps_dtype or position > 0):
            assert y.dtype == np.float32
        np.testing.assert_allclose(y.numpy(), e.numpy(), rtol=1e-3, atol=1e-4)
