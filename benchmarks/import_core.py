"""A device pays for every import at each start: the core may add little to what NumPy costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark

__all__ = ["FORBIDDEN", "import_core"]

FORBIDDEN = ("google.protobuf", "grpc", "pydantic", "scipy", "sqlalchemy", "typer")
"""What `import fedcore` must never load: see the contracts on direction."""

_REPEATS = 15
# One interpreter times both: the difference of two interpreters' times was once -2 ms, once 9.
_TIMED = """
from time import perf_counter
begin = perf_counter()
import numpy
between = perf_counter()
import fedcore.public
print(1e3 * (between - begin), 1e3 * (perf_counter() - between))
"""
_LOADED = "import sys, json, fedcore.public; print(json.dumps(sorted(sys.modules)))"


@benchmark(
    "import-core",
    "How many ms does `import fedcore` take beyond `import numpy`, and what does it load?",
)
def import_core(_peers: Peers) -> Iterator[Figure]:
    """Time both imports one after the other, each the best of 15 fresh interpreters."""
    runs = [_fresh(_TIMED).split() for _ in range(_REPEATS)]
    numpy_ms, core_ms = (min(float(ms) for ms in times) for times in zip(*runs, strict=True))
    ratio, bound = core_ms / numpy_ms, Target("value", "<=", 150)
    yield Figure("import-core", core_ms, "ms", ratio, "import numpy", bound)
    loaded = set(json.loads(_fresh(_LOADED)))
    unwanted = [name for name in FORBIDDEN if name in loaded]
    for name in unwanted:
        print(f"benchmarks: import fedcore loads {name}", file=sys.stderr)
    yield Figure(
        "import-core.forbidden", len(unwanted), "packages", target=Target("value", "<=", 0)
    )


def _fresh(program: str) -> str:
    """What `program` prints in a new interpreter, which compiles no source that it has before."""
    keeping = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=keeping
    ).stdout
