"""A figure means nothing without the machine: processor, cores, BLAS, interpreter."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import numpy as np

__all__ = ["cores", "describe", "processor"]


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name; family and model are added on x86, where clouds often hide the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    name = fields.get("model name", platform.machine())
    if "cpu family" not in fields:
        return name
    return f"{name} (family {fields['cpu family']}, model {fields['model']})"


def _gpu() -> str:
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return ""
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["name"].decode()
    return f"{name} with CuPy {cupy.__version__}, "


def describe() -> str:
    """One line: cores, processor, GPU if CuPy is in use, NumPy with its BLAS, Python, system."""
    config = np.show_config(mode="dicts")
    assert isinstance(config, dict)
    blas = config["Build Dependencies"]["blas"]
    return (
        f"{cores()} x {processor()}, {_gpu()}"
        f"NumPy {np.__version__} with {blas['name']} {blas['version']}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
