"""The core on a stand-in for CuPy: all of it uses only what CuPy has, and moves nothing silently.

The kernels are our own: their source runs on the host.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from fedcore.tensor.backend import Backend, use_backend
from tests.gpu.agreement import *  # noqa: F403
from tests.gpu.host_kernels import MISSING_COMPILER
from tests.gpu.stand_in import make_cupy
from tests.gpu.workloads import *  # noqa: F403

CUPY = make_cupy()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    if MISSING_COMPILER:
        pytest.skip(MISSING_COMPILER)
    monkeypatch.setitem(sys.modules, "cupy", CUPY)
    with use_backend("cupy") as backend:
        yield backend
