"""Rounds to a target by federated averaging on MNIST: what was recorded, as a table and a plot.

`mcmahan.jsonl` holds a line a run, `mcmahan_runs.py` makes it. Source: McMahan et al.,
"Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, table 2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.science.curves import rounds_to, smoothed
from benchmarks.science.scenarios import HERE
from fedsim.report.chart import Line, LineChart, stand_alone

__all__ = [
    "MODELS",
    "PAPER",
    "PARTITIONS",
    "RECORDED",
    "Cell",
    "CellRun",
    "best",
    "chart_of",
    "read_runs",
    "table_of",
    "write_runs",
]

RECORDED: Final = HERE / "mcmahan.jsonl"
MODELS: Final[Mapping[str, float]] = {"paper": 0.99, "small": 0.98}
"""The target by the model: the paper's CNN, and one a fiftieth of it in work, which ends lower."""
PARTITIONS: Final[Mapping[str, str]] = {"iid": "IID", "shards": "not IID"}
_ALL: Final = 600
"""Of a client's images in one batch: the paper's B = ∞."""


@dataclass(frozen=True, order=True)
class Cell:
    """A place in the table: who has which images, and what a client does with them in a round."""

    partition: str
    epochs: int
    batch: int

    @property
    def words(self) -> str:
        """As the paper names it."""
        if (self.epochs, self.batch) == (1, _ALL):
            return "FedSGD"
        return f"FedAvg, E = {self.epochs}, B = {'∞' if self.batch == _ALL else self.batch}"


@dataclass(frozen=True)
class CellRun:
    """One run: a cell at a learning rate, and the accuracies that it found after rounds."""

    model: str
    cell: Cell
    rate: float
    seed: int
    curve: Sequence[tuple[int, float]]

    @property
    def rounds(self) -> float | None:
        """To its model's target; None where it was not reached."""
        return rounds_to(self.curve, MODELS[self.model])


PAPER: Final[Mapping[Cell, int]] = {
    Cell(partition, epochs, batch): rounds
    for (epochs, batch), both in {
        (1, _ALL): (626, 483),
        (5, _ALL): (179, 1000),
        (1, 50): (65, 600),
        (1, 10): (34, 350),
        (5, 50): (29, 334),
        (5, 10): (20, 229),
    }.items()
    for partition, rounds in zip(PARTITIONS, both, strict=True)
}
"""The paper's rounds to 99 % with its CNN, C = 0.1; its rows of 20 epochs are left out."""


def read_runs(path: Path = RECORDED) -> list[CellRun]:
    """The runs of a file of lines."""
    runs = []
    for line in path.read_text("utf-8").splitlines():
        values: dict[str, Any] = json.loads(line)
        cell = Cell(**values.pop("cell"))
        curve = [(round, share) for round, share in values.pop("curve")]
        runs.append(CellRun(cell=cell, curve=curve, **values))
    return runs


def write_runs(runs: Sequence[CellRun], path: Path = RECORDED) -> None:
    """Writes them, a line each, in an order of their own."""
    ordered = sorted(runs, key=lambda run: (run.model, run.cell, run.rate, run.seed))
    path.write_text("".join(json.dumps(asdict(run)) + "\n" for run in ordered), "utf-8")


def best(runs: Sequence[CellRun], model: str) -> dict[Cell, CellRun]:
    """Of each cell the run whose rate took the fewest rounds, or came nearest to the target."""
    found: dict[Cell, CellRun] = {}
    for run in runs:
        if run.model == model:
            before = found.get(run.cell)
            if before is None or _rank(run) < _rank(before):
                found[run.cell] = run
    return found


def table_of(runs: Sequence[CellRun], model: str) -> str:
    """In Markdown: rounds to the target, how many times fewer than FedSGD's, and the paper's."""
    found = best(runs, model)
    lines = [
        "| | " + " | ".join(f"{name} | paper | rate" for name in PARTITIONS.values()) + " |",
        "| --- |" + " --- |" * 3 * len(PARTITIONS),
    ]
    for row in [cell for cell in PAPER if cell.partition == "iid"]:
        cells = [row.words]
        for partition in PARTITIONS:
            cell = replace(row, partition=partition)
            base = replace(cell, epochs=1, batch=_ALL)
            run, sgd = found.get(cell), found.get(base)
            cells += [
                "–" if run is None else _said(run, sgd),
                f"{PAPER[cell]} ({PAPER[base] / PAPER[cell]:.1f} ×)",
                "–" if run is None else f"{run.rate:g}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chart_of(runs: Sequence[CellRun], model: str, partition: str, *, most: int) -> str:
    """An SVG of the best accuracy so far over at most so many rounds, a line a cell."""
    found = best(runs, model)
    lines = tuple(_lines(found, partition, most))
    title = f"MNIST, {PARTITIONS[partition]}: accuracy on the test set, best so far"
    return stand_alone(LineChart(title=title, x="rounds", lines=lines, unit="share"))


def _lines(found: Mapping[Cell, CellRun], partition: str, most: int) -> Iterator[Line]:
    for cell in PAPER:
        if cell.partition == partition and cell in found:
            points = [point for point in smoothed(found[cell].curve) if point[0] <= most]
            # Below lies the way that all go alike in their first rounds.
            yield Line(name=cell.words, points=[point for point in points if point[1] >= 0.8])


def _rank(run: CellRun) -> tuple[float, float]:
    reached = run.rounds
    return (float("inf") if reached is None else reached, -max(share for _, share in run.curve))


def _said(run: CellRun, sgd: CellRun | None) -> str:
    rounds = run.rounds
    if rounds is None:
        top = max(share for _, share in run.curve)
        return f"{top:.2%} after {run.curve[-1][0]}"
    base = None if sgd is None else sgd.rounds
    return f"{rounds:.0f}" if base is None else f"{rounds:.0f} ({base / rounds:.1f} ×)"
