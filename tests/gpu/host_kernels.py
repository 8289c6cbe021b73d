"""Runs the very source of a CUDA kernel on the host: a C++ compiler, and loops for the threads.

It proves the arithmetic of places and elements and how arguments are passed, not what is CUDA's
own: parallel execution, and the limits of a device.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MISSING_COMPILER", "RawKernel"]

COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
MISSING_COMPILER = "" if COMPILER else "no C++ compiler (g++, clang++ or c++) to run kernels with"

_SHIM = """
#define __global__
#define __device__ static inline
struct Index { unsigned x, y, z; };
static Index blockIdx, threadIdx, blockDim, gridDim;
static inline float erf(float x) { return __builtin_erff(x); }
static inline double erf(double x) { return __builtin_erf(x); }
"""

_LAUNCH = """
extern "C" void launch(unsigned blocks, unsigned threads, {parameters}) {{
    gridDim.x = blocks; blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++)
            {name}({names});
}}
"""

# What CuPy passes for a scalar argument: a Python number always has eight bytes.
_SCALARS: dict[Any, Any] = {
    int: ctypes.c_longlong,
    float: ctypes.c_double,
    np.int32: ctypes.c_int,
    np.int64: ctypes.c_longlong,
    np.float32: ctypes.c_float,
    np.float64: ctypes.c_double,
}
_C_NAMES = {"int": ctypes.c_int, "long long": ctypes.c_longlong}


class RawKernel:
    """As `cupy.RawKernel`, for a grid and blocks of one dimension."""

    def __init__(self, code: str, name: str) -> None:
        if not COMPILER:
            raise RuntimeError(MISSING_COMPILER)
        macros = dict(re.findall(r"#define (\w+) ((?:.*\\\n)*.*)", code))
        found = re.search(rf"__global__ void {name}\(([^)]*)\)", code)
        assert found, f"no kernel {name}"
        declared = " ".join(found[1].replace("GEOMETRY", macros.get("GEOMETRY", "")).split())
        parameters = declared.replace("\\", "").split(",")
        names = [p.split()[-1].strip("*") for p in parameters]
        place = re.search(r"typedef ([\w ]+) I;", code)
        assert place
        self._types = [ctypes.c_void_p if "*" in p else _C_NAMES[place[1]] for p in parameters]
        launch = _LAUNCH.format(parameters=", ".join(parameters), name=name, names=", ".join(names))
        self._launch = _library(_SHIM + code + launch).launch

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        assert len(args) == len(self._types), "CUDA would read parameters that nobody passed"
        passed = []
        for argument, expected in zip(args, self._types, strict=True):
            kind = _SCALARS.get(type(argument), ctypes.c_void_p)
            assert kind is expected, f"{type(argument)} is passed for {expected}"
            passed.append(kind(argument.data.ptr if kind is ctypes.c_void_p else argument))
        assert len(grid) == len(block) == 1 and 0 < grid[0] < 1 << 31 and 0 < block[0] <= 1024
        self._launch(ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), *passed)


@functools.cache
def _library(source: str) -> ctypes.CDLL:
    folder = Path(_folder().name)
    target = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.so"
    command = [str(COMPILER), "-x", "c++", "-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    done = subprocess.run(
        [*command, "-ffp-contract=off", "-Wno-unused-variable", "-o", str(target), "-"],
        input=source,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fedcore-kernels-")
