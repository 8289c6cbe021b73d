"""The document draws the table as it is."""

from __future__ import annotations

import re
from pathlib import Path

from fedcore.rounds import EDGES, ENDS, TABLE, Phase
from fedcore.rounds.diagram import diagram


def test_the_document_holds_the_diagram_that_the_table_gives(root: Path) -> None:
    text = (root / "docs/rounds.md").read_text("utf-8")
    found = re.search(r"a test compares -->\n(.*)\n<!-- up to here -->", text, re.DOTALL)
    assert found
    assert found.group(1) == diagram(), "put in the output of `python -m fedcore.rounds.diagram`"


def test_the_drawing_has_each_edge_to_a_result_once() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+):", diagram(), re.MULTILINE)
    lost = {Phase.ABANDONED, Phase.FAILED, Phase.CANCELLED}
    wanted = {(a.name, b.name) for a, b in EDGES if b not in lost}
    assert len(drawn) == len(set(drawn)) and set(drawn) == wanted


def test_the_table_lists_every_event_with_every_outcome() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", diagram(), re.MULTILINE)
    listed = {
        (phase, event, outcome)
        for event, where, outcomes in rows
        for phase in ([p.name for p in Phase] if where == "every phase" else where.split(", "))
        for outcome in outcomes.replace("the same", phase).split(" or ")
    }
    expected = {(p.name, e.__name__, t.name) for (p, e), to in TABLE.items() for t in to}
    assert listed == expected


def test_no_edge_leaves_an_end() -> None:
    assert not {source for source, _ in EDGES} & ENDS
