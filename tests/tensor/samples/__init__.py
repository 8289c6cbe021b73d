"""The samples of all primitives: every module here with a list `SAMPLES` adds to them."""

from __future__ import annotations

import importlib
import pkgutil

from tests.tensor.samples.sample import Sample

__all__ = ["SAMPLES"]

SAMPLES: list[Sample] = [
    one
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__))
    for one in getattr(importlib.import_module(f"{__name__}.{module}"), "SAMPLES", [])
]
