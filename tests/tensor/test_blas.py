"""The GEMM of `fedcore.tensor.blas` equals a float64 product, with OpenBLAS and without it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.tensor import blas

HAS_LIBRARY = blas.library() is not None
needs_library = pytest.mark.skipif(
    not HAS_LIBRARY, reason="this NumPy brings no OpenBLAS of its own"
)


@pytest.fixture(params=["library", "numpy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways of computing."""
    if request.param == "numpy":
        monkeypatch.setattr(blas, "library", lambda: None)
    elif not HAS_LIBRARY:
        pytest.skip("this NumPy brings no OpenBLAS of its own")
    yield request.param


def view(rng: np.random.Generator, shape: tuple[int, ...], dtype: type, kind: str) -> np.ndarray:
    """Random values in storage of a kind: C order, transposed, or either within a wider buffer."""
    *lanes, rows, columns = shape
    pad = 3 if "padded" in kind else 0
    if "transposed" in kind:
        stored = rng.standard_normal((*lanes, columns, rows + pad)).astype(dtype)
        return stored[..., :rows].swapaxes(-1, -2)
    return rng.standard_normal((*lanes, rows, columns + pad)).astype(dtype)[..., :columns]


KINDS = ["plain", "padded", "transposed", "padded transposed"]
sizes = st.integers(1, 9)


def expected(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, alpha: float, beta: float
) -> np.ndarray:
    return alpha * (a.astype(np.float64) @ b.astype(np.float64)) + beta * out.astype(np.float64)


def tolerance(a: np.ndarray, b: np.ndarray, out: np.ndarray, scale: float) -> np.ndarray:
    """The error bound (k + 3) ε (|alpha| |a| |b| + |beta| |out|) of a sum in any order."""
    bound = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64) + np.abs(out)
    return (a.shape[-1] + 3) * np.finfo(out.dtype).eps * scale * bound + np.finfo(out.dtype).tiny


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(
    m=sizes, k=sizes, n=sizes, kinds=st.tuples(*[st.sampled_from(KINDS)] * 3),
    lanes=st.sampled_from([((), (), ()), ((3,), (3,), (3,)), ((1,), (3,), (3,)), ((3,), (), (3,)),
                           ((2, 1), (1, 3), (2, 3)), ((1,), (1,), (1,))]),
    alpha=st.sampled_from([1.0, -0.05, 0.0]), beta=st.sampled_from([0.0, 1.0, 0.5]),
    library=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_float64_product_for_every_layout_and_lane_broadcast(
    dtype: type, m: int, k: int, n: int, kinds: tuple[str, str, str],
    lanes: tuple[tuple[int, ...], ...], alpha: float, beta: float, library: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    a = view(rng, (*lanes[0], m, k), dtype, kinds[0])
    b = view(rng, (*lanes[1], k, n), dtype, kinds[1])
    out = view(rng, (*lanes[2], m, n), dtype, kinds[2])
    want, allowed = expected(a, b, out, alpha, beta), tolerance(a, b, out, abs(alpha) + abs(beta))
    with pytest.MonkeyPatch.context() as patch:
        if not library:
            patch.setattr(blas, "library", lambda: None)
        blas.gemm(a, b, out, alpha=alpha, beta=beta)
    assert (np.abs(out - want) <= allowed).all()


@pytest.mark.parametrize("kind", KINDS)
def test_elements_between_the_rows_of_a_view_are_left_alone(path: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    out = view(rng, (5, 4), np.float32, kind)
    whole = out if out.base is None else out.base
    whole[...] = 7
    blas.gemm(np.ones((5, 3), np.float32), np.ones((3, 4), np.float32), out)
    assert (out == 3).all()
    assert (whole == 7).sum() == whole.size - out.size


def test_beta_zero_does_not_read_the_old_content(path: str) -> None:
    out = np.full((2, 2), np.nan, np.float32)
    blas.gemm(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), out)
    assert (out == np.eye(2)).all()


@pytest.mark.parametrize("two", [2, np.float32(2), np.float64(2)])
def test_factors_may_be_any_real_number(path: str, two: float) -> None:
    out = np.ones((2, 2))
    blas.gemm(np.ones((2, 3)), np.ones((3, 2)), out, alpha=two, beta=two)
    assert (out == 8).all()


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_an_empty_product_only_scales_out(path: str, m: int, k: int, n: int) -> None:
    out = np.full((m, n), 4.0)
    blas.gemm(np.ones((m, k)), np.ones((k, n)), out, beta=0.5)
    assert (out == 2.0).all()


@pytest.mark.parametrize(("m", "k", "n"), [(20, 785, 200), (785, 20, 200), (3, 5, 2)])
def test_a_lane_has_the_same_bits_whatever_the_number_of_lanes(m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(1)
    a = rng.standard_normal((4, m, k), dtype=np.float32)
    b = rng.standard_normal((4, k, n), dtype=np.float32)
    together = np.ones((4, m, n), np.float32)
    blas.gemm(a, b, together, alpha=-0.1, beta=1.0)
    for lane in range(4):
        alone = np.ones((1, m, n), np.float32)
        blas.gemm(a[lane], b[lane : lane + 1], alone, alpha=-0.1, beta=1.0)
        assert np.array_equal(alone[0], together[lane])


def test_a_sum_cut_in_pieces_is_the_whole_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_has_avx512_kernels", lambda: True)
    rng = np.random.default_rng(2)
    a, b, out = rng.standard_normal((20, 785)), rng.standard_normal((785, 200)), np.ones((20, 200))
    want, allowed = expected(a, b, out, 0.5, 2.0), tolerance(a, b, out, 2.5)
    blas.gemm(a, b, out, alpha=0.5, beta=2.0)
    assert (np.abs(out - want) <= allowed).all()
    transposed = np.ones((20, 200))
    blas.gemm(b.T, a.T, transposed.T, alpha=0.5, beta=2.0)
    assert np.array_equal(out, transposed)


def test_a_bound_call_reads_its_buffers_anew_and_keeps_them_alive(path: str) -> None:
    a, b, out = np.ones((3, 2)), np.ones((2, 4)), np.zeros((3, 4))
    call, held = blas.bind_gemm(a, b, out, beta=1.0), weakref.ref(b)
    del b
    gc.collect()
    assert held() is not None
    call()
    a *= 2
    call()
    assert (out == 6).all()


@pytest.mark.parametrize(
    ("a", "b", "out", "error"),
    [
        (np.ones((2, 3)), np.ones((4, 5)), np.ones((2, 5)), ShapeError),
        (np.ones((2, 3)), np.ones((3, 5)), np.ones((5, 2)), ShapeError),
        (np.ones(3), np.ones((3, 5)), np.ones((1, 5)), ShapeError),
        (np.ones((2, 2, 3)), np.ones((3, 3, 5)), np.ones((3, 2, 5)), ShapeError),
        (np.ones((3, 2, 3)), np.ones((3, 5)), np.ones((1, 2, 5)), ShapeError),
        (np.ones((2, 3), "f4"), np.ones((3, 5)), np.ones((2, 5)), DtypeError),
        (np.ones((2, 3), "i8"), np.ones((3, 5), "i8"), np.ones((2, 5), "i8"), DtypeError),
        (np.ones((2, 3), ">f4"), np.ones((3, 5), ">f4"), np.ones((2, 5), ">f4"), DtypeError),
        (np.ones((4, 6))[::2, ::2], np.ones((3, 5)), np.ones((2, 5)), ArgumentError),
        (np.ones((2, 3))[:, ::-1], np.ones((3, 5)), np.ones((2, 5)), ArgumentError),
        (np.broadcast_to(np.ones(3), (2, 3)), np.ones((3, 5)), np.ones((2, 5)), ArgumentError),
        (
            np.ones((2, 3)),
            np.ones((3, 5)),
            np.broadcast_to(np.ones((2, 5)), (4, 2, 5)),
            ArgumentError,
        ),
    ],
)
def test_what_cannot_be_multiplied_is_named(
    path: str, a: np.ndarray, b: np.ndarray, out: np.ndarray, error: type[Exception]
) -> None:
    before = out.copy()
    with pytest.raises(error, match="gemm: "):
        blas.gemm(a, b, out)
    assert np.array_equal(out, before)


def test_an_output_that_overlaps_an_operand_is_refused_and_neighbours_are_not(path: str) -> None:
    whole = np.ones((4, 8))
    with pytest.raises(ArgumentError, match="overlaps"):
        blas.gemm(np.ones((4, 4)), whole[:, :4], whole[:, 3:7])
    blas.gemm(np.ones((4, 4)), whole[:, :4], whole[:, 4:])
    assert (whole[:, 4:] == 4).all()


@needs_library
def test_the_number_of_threads_is_set_in_the_library_numpy_uses() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = blas.get_threads()
    assert before is not None
    try:
        assert blas.set_threads(1)
        assert blas.get_threads() == 1
        inside = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()
                  if "numpy" in pool["filepath"]]  # fmt: skip
        assert inside == [1]
    finally:
        blas.set_threads(before)


def test_no_thread_at_all_is_refused() -> None:
    with pytest.raises(ArgumentError, match="0 threads"):
        blas.set_threads(0)


def test_without_the_library_threads_and_kernels_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blas, "library", lambda: None)
    assert (blas.get_threads(), blas.kernels(), blas.set_threads(1)) == (None, None, False)
    assert not blas.use_avx512()


def test_avx512_kernels_agree_with_the_detected_ones_and_leave_the_environment_alone() -> None:
    # in a process of its own: the kernels of this one must not change under other tests
    program = """
import os
import numpy as np
from fedcore.tensor import blas
a = np.random.default_rng(0).standard_normal((20, 785), dtype=np.float32)
b = np.random.default_rng(1).standard_normal((785, 200), dtype=np.float32)
want, out = a.astype(float) @ b.astype(float), np.empty((20, 200), np.float32)
environment = dict(os.environ)
now = blas.use_avx512()
assert dict(os.environ) == environment
assert now == blas.use_avx512()
assert not now or blas.kernels() in ("SkylakeX", "Cooperlake", "SapphireRapids")
blas.gemm(a, b, out)
bound = 788 * 2.0**-23 * (np.abs(a) @ np.abs(b))
assert (np.abs(out - want) <= bound).all() and (np.abs(a @ b - want) <= bound).all()
assert np.isfinite(np.linalg.svd(np.ones((30, 30)))[1]).all()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, env=dict(os.environ), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_one_thread_lasts_until_the_last_one_within_has_left() -> None:
    """Two runs that overlap in time must both stay at one thread."""
    before = blas.get_threads()
    if before is None:
        pytest.skip("the threads of this NumPy's BLAS cannot be set")
    blas.set_threads(2)
    try:
        first, second = blas.one_thread(), blas.one_thread()
        first.__enter__()
        second.__enter__()
        assert blas.get_threads() == 1
        first.__exit__(None, None, None)
        assert blas.get_threads() == 1
        second.__exit__(None, None, None)
        assert blas.get_threads() == 2
    finally:
        blas.set_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alone", [False, True], ids=["library", "numpy"])
def test_a_scaled_array_is_added_in_place(dtype, alone, monkeypatch) -> None:
    if alone:
        monkeypatch.setattr(blas, "library", lambda: None)
    x, out = np.arange(5, dtype=dtype), np.ones(5, dtype)
    blas.add_scaled(out, x, 0.5)
    assert out.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]
    for wrong in (x[:4], x.astype(np.int64), np.arange(10, dtype=dtype)[::2]):
        with pytest.raises((ArgumentError, DtypeError, ShapeError)):
            blas.add_scaled(out, wrong, 1.0)
