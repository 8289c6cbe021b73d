"""Draws what a run of the demo measured: `python picture.py FIGURES.json PICTURE.svg`.

Above, how well the models read held-out handwriting after each round; below, what the private one
has cost of its budget. It is drawn with what `fed sim` draws its reports with.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from figures import Figures, Round

from fedsim.report.chart import Line, LineChart, stand_alone

__all__ = ["main", "picture"]


def picture(figures: Figures) -> str:
    """The text of an SVG file."""
    rounds, alone = figures.rounds, list(figures.alone.values())
    first, last = rounds[0].number, rounds[-1].number
    mean = sum(alone) / len(alone)
    lines = [
        Line(
            name=f"federated and private, ε = {figures.epsilon:.2f}",
            points=[(each.number, each.accuracy) for each in rounds],
        ),
        Line(name="federated, without privacy", points=_by_round(figures.plain)),
        Line(name="centralised, images pooled", points=_by_round(figures.pooled)),
        Line(name="a writer alone, mean", points=[(first, mean), (last, mean)]),
    ]
    if lossy := list(_lossy(rounds)):
        lines.append(Line(name="rounds that lost clients", points=lossy))
    accuracy = LineChart(
        title=f"Handwritten digits of {len(alone)} writers: accuracy on held-out images",
        x="round",
        unit="share",
        lines=lines,
    )
    epsilon = LineChart(
        title=f"Privacy spent for one image, ε at δ = {figures.delta:g}",
        x="round",
        height=90,
        lines=[Line(name="ε", points=[(each.number, each.epsilon) for each in rounds])],
    )
    return stand_alone(accuracy, epsilon)


def _by_round(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(number), value) for number, value in enumerate(values, start=1)]


def _lossy(rounds: Sequence[Round]) -> Iterator[tuple[float, float]]:
    """Points that are not joined: a line is parted by what is not a number."""
    for each in rounds:
        if each.reported < each.selected:
            yield each.number, each.accuracy
            yield each.number + 0.5, math.nan


def main(argv: Sequence[str]) -> None:
    """Draws the figures in the first file into the second."""
    source, target = map(Path, argv)
    target.write_text(picture(Figures.load(source)), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
