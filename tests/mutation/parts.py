"""What is changed by small defects, and which quick tests have to see them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["PARTS", "ROOT", "Part", "files_of"]

ROOT = Path(__file__).resolve().parent.parent.parent


class Part(NamedTuple):
    """Patterns of files within the checkout."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]
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


_ARITHMETIC = ("graph", "masking", "packing", "params", "prg", "shamir")


def _privacy(tests: str, *modules: str) -> Part:
    """Some modules of `fedcore.privacy`, with the tests that begin with one of some words."""
    return Part(
        tuple(f"fedcore/privacy/{name}.py" for name in modules),
        tuple(f"tests/privacy/test_{word}*.py" for word in tests.split()),
    )


PARTS = {
    "rounds": Part(("fedcore/rounds/*.py",), ("tests/rounds/**/test_*.py",)),
    "arithmetic": Part(
        tuple(f"fedcore/secagg/{name}.py" for name in _ARITHMETIC),
        tuple(
            f"tests/secagg/test_{word}*.py"
            for word in ("graph", "packing", "params", "prg", "shamir", "statistics")
        ),
    ),
    "secagg": Part(
        tuple(
            f"fedcore/secagg/{path.name}"
            for path in sorted((ROOT / "fedcore/secagg").glob("*.py"))
            if path.stem not in _ARITHMETIC
        ),
        ("tests/secagg/**/test_*.py",),
        tuple(f"tests/secagg/test_{name}.py" for name in _STORIES),
    ),
    "clipping": _privacy(
        "adaptive clipping quantise rotation values",
        *("adaptive", "clipping", "quantise", "rotation", "values"),
    ),
    "noise": _privacy(
        "compact_plan csprng noise plan_noise sampler skellam tables",
        *("blocks", "csprng", "masses", "noise", "sampler", "skellam", "tables"),
    ),
    "mechanisms": _privacy(
        "banded compact mechanisms simulated toeplitz",
        *("banded", "compact", "compact_mechanism", "mechanisms", "release", "simulated"),
        "toeplitz",
    ),
    "accounting": _privacy(
        "accounting analytic attacks_cohort calibration events rdp sampling",
        *("accounting", "analytic", "calibration", "events", "rdp", "rdp_sampled", "sampling"),
    ),
    "plan": _privacy(
        "certificate claims codec dpsgd participation plan",
        *("certificate", "claims", "codec", "coherence", "dpsgd", "grade", "participation"),
        *("plan", "statement", "units", "verification"),
    ),
    "ledger": _privacy(
        "forks ledger",
        *("forks", "ledger", "ledger_file", "ledger_history", "ledger_journal", "ledger_records"),
        "reservation",
    ),
    "audit": Part(("fedcore/privacy/audit/*.py",), ("tests/privacy/audit/**/test_*.py",)),
    "commands": Part(("fedcore/privacy/commands/*.py",), ("tests/privacy/test_commands_*.py",)),
}


def files_of(part: Part) -> list[str]:
    """The files of tests, as they are named within the checkout."""
    chosen = {path for pattern in part.tests for path in ROOT.glob(pattern)}
    left_out = {path for pattern in part.not_tests for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT).as_posix() for path in chosen - left_out)
