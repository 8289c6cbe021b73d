"""The core on a stand-in for CuPy: all of it uses only what CuPy has, and moves nothing silently.

The kernels are our own: their source runs on the host.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from fedcore.tensor.backend import Backend, use_backend
from fedcore.tensor.ops import random
from fedcore.tensor.primitive import primitives
from tests.gpu.agreement import *  # noqa: F403
from tests.gpu.agreement import arguments, patterns
from tests.gpu.host_kernels import MISSING_COMPILER
from tests.gpu.stand_in import make_cupy, ndarray
from tests.gpu.workloads import *  # noqa: F403
from tests.tensor.samples.sample import Sample
from tests.tensor.test_primitives import first_samples, in_lanes

CUPY = make_cupy()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    if MISSING_COMPILER:
        pytest.skip(MISSING_COMPILER)
    monkeypatch.setitem(sys.modules, "cupy", CUPY)
    with use_backend("cupy") as backend:
        yield backend


@first_samples
def test_only_random_draws_read_the_device(
    device: Backend, monkeypatch: pytest.MonkeyPatch, one: Sample
) -> None:
    """They take the words of their key, and draw on the host."""
    if primitives[one.name].kernel.__module__ == random.__name__:
        pytest.skip("it draws")
    for way, sizes in patterns(one):
        g, *xs = [device.asarray(x) for x in arguments(one, way, sizes, "float64")]
        with monkeypatch.context() as watched:
            for name in ("get", "item", "tolist", "tobytes"):
                watched.setattr(ndarray, name, ndarray._waits)
            in_lanes(one, xs, g, way, len(sizes))
