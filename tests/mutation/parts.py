"""What is changed by small defects, and which quick tests have to see them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["PARTS", "Part", "files_of"]


class Part(NamedTuple):
    """Patterns of files within the checkout."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]
    not_sources: tuple[str, ...] = ()
    not_tests: tuple[str, ...] = ()


_STORIES = (
    "crashes",
    "crashes_undo_nothing",
    "defects_of_others",
    "fuzz_machines",
    "random_server",
    "two_crashes",
)
"""Of secure aggregation: every line of it has a part in them, and each takes many seconds."""

PARTS = {
    "rounds": Part(("fedcore/rounds/*",), ("tests/rounds/**/test_*.py",)),
    "secagg": Part(
        ("fedcore/secagg/*",),
        ("tests/secagg/**/test_*.py",),
        not_tests=tuple(f"tests/secagg/test_{name}.py" for name in _STORIES),
    ),
    "privacy": Part(
        ("fedcore/privacy/*",),
        ("tests/privacy/test_*.py",),
        not_sources=("fedcore/privacy/audit/*", "fedcore/privacy/commands/*"),
        not_tests=("tests/privacy/test_commands_*.py",),
    ),
    "audit": Part(("fedcore/privacy/audit/*",), ("tests/privacy/audit/**/test_*.py",)),
    "commands": Part(("fedcore/privacy/commands/*",), ("tests/privacy/test_commands_*.py",)),
}


def files_of(part: Part, root: Path) -> list[str]:
    """The files of tests, as they are named within the checkout."""
    chosen = {path for pattern in part.tests for path in root.glob(pattern)}
    left_out = {path for pattern in part.not_tests for path in root.glob(pattern)}
    return sorted(path.relative_to(root).as_posix() for path in chosen - left_out)
