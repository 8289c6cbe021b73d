"""`python -m tests.covered FILE`: the share of lines and of branches that tests reach, by package.

The file is what `coverage json` wrote. Both shares of the whole have a floor; below it this fails.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path, PurePath

LINES, BRANCHES = 90.0, 85.0
"""Per cent, of all lines and of all branches."""

_ROOTS = ("client", "server", "simulations")


def shares(report: str) -> dict[str, tuple[float, float]]:
    """By package, and for all, the per cent of lines and of branches that were reached."""
    counts: dict[str, Counter[str]] = {}
    for name, file in json.loads(report)["files"].items():
        for package in (_package(name), "all"):
            numbers = {key: n for key, n in file["summary"].items() if isinstance(n, int)}
            counts.setdefault(package, Counter()).update(numbers)
    return {
        package: (
            _per_cent(n["covered_lines"], n["num_statements"]),
            _per_cent(n["covered_branches"], n["num_branches"]),
        )
        for package, n in counts.items()
    }


def _package(name: str) -> str:
    """`fedcore.privacy`, or `fedserver` whose parts are many: what stands two folders deep."""
    parts = PurePath(name).parent.parts
    return ".".join(parts[1:2] if parts[0] in _ROOTS else parts[:2])


def _per_cent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 100.0


def main(path: Path) -> int:
    """Print a table; 1 if a floor is not reached."""
    found = shares(path.read_text("utf-8"))
    print("| package | lines | branches |\n|---|---|---|")
    for package, (lines, branches) in sorted(found.items(), key=lambda row: (row[0] == "all", row)):
        print(f"| {package} | {lines:.1f} % | {branches:.1f} % |")
    lines, branches = found["all"]
    return int(lines < LINES or branches < BRANCHES)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
