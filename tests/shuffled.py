"""The quick tests in another order each time: what depends on a neighbour fails sooner or later.

A plugin of pytest, `-p tests.shuffled`; the order follows from `--hypothesis-seed`, as the random
examples do, so that every worker has the same. Files stay whole, for the sake of what they share.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    draw = random.Random(config.getoption("hypothesis_seed"))
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    shuffled = list(files.values())
    draw.shuffle(shuffled)
    for ours in shuffled:
        draw.shuffle(ours)
    items[:] = [item for ours in shuffled for item in ours]
