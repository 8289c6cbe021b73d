"""The core on CuPy and a GPU: the same tests as on the stand-in, skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("cupy", reason="CuPy is not installed (the extra 'gpu')")

from fedcore.tensor.backend import Backend, use_backend
from tests.gpu.agreement import *  # noqa: F403
from tests.gpu.workloads import *  # noqa: F403

pytestmark = pytest.mark.gpu


@pytest.fixture
def device() -> Iterator[Backend]:
    with use_backend("cupy") as backend:
        yield backend
        backend.synchronize()
