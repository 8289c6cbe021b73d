"""A comparison of runs as a terminal and as a page show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedcore.console import plain
from fedsim.records import Mode
from fedsim.report.chart import draw
from fedsim.report.compare import Comparison, Reached, comparison_charts
from fedsim.report.escaping import escaped
from fedsim.report.page import document, render_table
from fedsim.report.settings import written
from fedsim.run.reading import Run
from fedsim.run.wording import NONE, duration, number, share, size

__all__ = ["render_comparison", "render_comparison_page", "text_table"]

_WIDEST: Final = 40
_MOST_NAMED: Final = 3

Table = tuple[list[str], list[list[str]]]


def render_comparison(found: Comparison) -> str:
    """A comparison as text for a terminal, which nothing in it can act on."""
    parts = [text_table(*_outcome_table(found))]
    if found.outcomes[0].reached:
        parts.append("Until the accuracy was reached\n" + text_table(*_target_table(found)))
    if found.differences:
        parts.append("In what the runs differ\n" + text_table(*_difference_table(found)))
    else:
        parts.append("The runs do not differ in any setting.")
    if found.same_model:
        parts.append(f"All found the same model, {found.outcomes[0].model}.")
    return "\n\n".join(parts)


def render_comparison_page(
    runs: Sequence[Run], found: Comparison, *, title: str | None = None
) -> str:
    """A comparison as one HTML page, as harmless as that of a run.

    `title`: None for the names of a few runs, or how many there are.
    """
    charts = "".join(draw(chart) for chart in comparison_charts(runs).values())
    head, rows = _outcome_table(found)
    parts = [render_table(head, rows, numbers=head[2:])]
    parts += [
        f'<p class="mode plain">{escaped(outcome.label)}: {escaped(outcome.mode.words)}</p>\n'
        for outcome in found.outcomes
        if outcome.mode is Mode.PLAIN
    ]
    if found.outcomes[0].reached:
        parts.append(f"<h2>Targets</h2>{render_table(*_target_table(found))}\n")
    parts.append(f'<h2>Plots</h2><div class="plots">\n{charts}</div>\n')
    if found.differences:
        parts.append(f"<h2>Differences</h2>{render_table(*_difference_table(found))}\n")
    labels = [outcome.label for outcome in found.outcomes]
    few = " · ".join(labels) if len(labels) <= _MOST_NAMED else f"{len(labels)} runs compared"
    return document(few if title is None else title, "".join(parts))


def _outcome_table(found: Comparison) -> Table:
    columns = ["run", "mode", "rounds", "accuracy", "best", "loss", "epsilon", "down", "up"]
    rows = [
        [
            one.label,
            "plain, NOT PRIVATE" if one.mode is Mode.PLAIN else one.mode.value,
            str(one.rounds) if one.ended else f"{one.rounds}, not ended",
            share(one.accuracy),
            share(one.best_accuracy),
            number(one.loss),
            NONE if one.epsilon is None else f"{one.epsilon:.2f}/{one.budget:.2f}",
            size(one.bytes_down),
            size(one.bytes_up),
            duration(one.virtual_s),
            duration(one.wall_s),
        ]
        for one in found.outcomes
    ]
    return [*columns, "virtual time", "computed in"], rows


def _target_table(found: Comparison) -> Table:
    head = ["run", *(share(one.target) for one in found.outcomes[0].reached)]
    return head, [[one.label, *map(_until, one.reached)] for one in found.outcomes]


def _until(reached: Reached) -> str:
    if reached.round is None:
        return "never"
    return f"round {reached.round + 1}, {duration(reached.virtual_s)}"


def _difference_table(found: Comparison) -> Table:
    head = ["setting", *(one.label for one in found.outcomes)]
    return head, [[one.setting, *map(written, one.values)] for one in found.differences]


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal, which nothing in it can act on; long cells are cut."""
    cells = [[_cell(text) for text in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _cell(text: str) -> str:
    shown = plain(text)
    return shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 1]}…"
