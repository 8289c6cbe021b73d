"""The page for who writes a test of chaos names the parts that there are."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_part_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", (HERE / "README.md").read_text("utf-8")))
    assert {name for name in named if not (HERE / name).exists()} == {
        "tests/client/test_transfer.py"
    }
    assert (HERE.parents[1] / "tests/client/test_transfer.py").exists()
