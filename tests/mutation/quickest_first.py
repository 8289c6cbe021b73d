"""The tests that a mutant is given: quickest first, and no more than are worth waiting for.

A plugin of pytest. mutmut runs the tests that reach the changed function in no order, and one that
takes a minute may be the first of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

_MOST_S = 8.0
"""What is left out may only make the share of those that are seen smaller."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Once mutmut has measured the tests, which it writes down beside them."""
    measured = Path("mutmut-stats.json")
    if config.option.collectonly or not measured.exists():
        return
    took: dict[str, float] = json.loads(measured.read_text("utf-8"))["duration_by_test"]
    items.sort(key=lambda item: took.get(item.nodeid, 0.0))
    total = 0.0
    for number, item in enumerate(items):
        total += took.get(item.nodeid, 0.0)
        if total > _MOST_S and number:
            config.hook.pytest_deselected(items=items[number:])
            del items[number:]
            return
