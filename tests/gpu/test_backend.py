"""Asking for CuPy says what is missing, changes nothing when it fails, and costs nothing else."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import fedcore as fc
from fedcore.errors import ArgumentError, DeviceError, InstallError
from fedcore.tensor.backend import backend_of, current_backend, use_backend
from tests.gpu.stand_in import make_cupy


class NoDevice(RuntimeError):
    """As CuPy's CUDARuntimeError."""


def cupy_on(count: Any) -> ModuleType:
    """A CuPy that finds so many devices."""

    def devices() -> int:
        if isinstance(count, Exception):
            raise count
        return int(count)

    cupy: Any = make_cupy()
    cupy.cuda.runtime = SimpleNamespace(getDeviceCount=devices, CUDARuntimeError=NoDevice)
    return cupy  # type: ignore[no-any-return]


def test_without_cupy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InstallError, match=r"\.\[gpu\]"):
        use_backend("cupy")
    assert current_backend().name == "numpy"


@pytest.mark.parametrize("count", [0, NoDevice("cudaErrorInsufficientDriver: driver too old")])
def test_without_a_gpu_the_error_says_why(monkeypatch: pytest.MonkeyPatch, count: Any) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy_on(count))
    with pytest.raises(DeviceError, match="driver too old" if count else "0 devices") as found:
        use_backend("cupy")
    assert "nvidia-smi" in found.value.fix
    assert fc.tensor(1.0).backend.name == "numpy"


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ArgumentError, match="torch"):
        use_backend("torch")


def test_a_backend_holds_within_its_block_and_blocks_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy_on(1))
    with use_backend("cupy") as gpu:
        assert (gpu.name, current_backend()) == ("cupy", gpu)
        with use_backend("numpy"):
            assert fc.zeros(2).backend.name == "numpy"
        assert fc.zeros(2).backend is gpu
        with pytest.raises(ZeroDivisionError), use_backend("numpy"):
            raise ZeroDivisionError
        assert current_backend() is gpu
    assert current_backend().name == "numpy"


def test_an_array_of_no_backend_is_named() -> None:
    with pytest.raises(DeviceError, match=r"array\.array"):
        backend_of(__import__("array").array("d", [1.0]))


def test_the_core_imports_no_cupy() -> None:
    code = "import sys, fedcore; fedcore.tensor([1.0]) * 2; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
