"""Which plots tell of a run: how good the model was, what it cost, and where clients were lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from fedsim.records import RoundRecord
from fedsim.report.chart import BarChart, Line, LineChart, Unit

__all__ = ["Chart", "plots_of"]

Chart = LineChart | BarChart

_ROUND = "round"
_Value = Callable[[RoundRecord], float | None]


def plots_of(rounds: Sequence[RoundRecord]) -> Mapping[str, Chart]:
    """The charts of a run by the names of their files; what was never measured has none."""
    found: dict[str, Chart | None] = {
        "accuracy": _chart(
            "Accuracy",
            rounds,
            {
                "test set": lambda r: r.test.accuracy if r.test else None,
                "clients, mean": lambda r: r.clients.mean if r.clients else None,
                "clients, 10th percentile": lambda r: r.clients.p10 if r.clients else None,
                "clients, median": lambda r: r.clients.p50 if r.clients else None,
                "clients, 90th percentile": lambda r: r.clients.p90 if r.clients else None,
                "personal models": lambda r: r.personal.get("accuracy"),
            },
            unit="share",
        ),
        "loss": _chart(
            "Loss",
            rounds,
            {
                "test set": lambda r: r.test.loss if r.test else None,
                "training": lambda r: r.train_loss,
            },
        ),
        "epsilon": _chart(
            "Privacy spent, ε",
            rounds,
            {
                "spent": lambda r: r.privacy.epsilon if r.privacy else None,
                "budget": lambda r: r.privacy.budget if r.privacy else None,
            },
        ),
        "bytes": _bytes(rounds),
        "funnel": funnel(rounds),
    }
    return {name: chart for name, chart in found.items() if chart is not None}


def funnel(rounds: Sequence[RoundRecord]) -> BarChart | None:
    """How many clients of all rounds passed each stage; None where no stages were counted."""
    stages: dict[str, int] = {}
    for record in rounds:
        for stage, count in record.funnel.items():
            stages[stage] = stages.get(stage, 0) + count
    return (
        BarChart(title="Clients by stage, all rounds", bars=list(stages.items()))
        if stages
        else None
    )


def _chart(
    title: str,
    rounds: Sequence[RoundRecord],
    values: Mapping[str, _Value],
    *,
    unit: Unit = "number",
) -> LineChart | None:
    lines = []
    for name, value in values.items():
        points = [(float(r.round + 1), y) for r in rounds if (y := value(r)) is not None]
        if points:
            lines.append(Line(name=name, points=points))
    return LineChart(title=title, x=_ROUND, lines=lines, unit=unit) if lines else None


def _bytes(rounds: Sequence[RoundRecord]) -> LineChart | None:
    if not rounds:
        return None
    lines = [
        Line(
            name=name,
            points=[(float(r.round + 1), float(n)) for r, n in zip(rounds, sums, strict=True)],
        )
        for name, sums in (
            ("to clients", accumulate(r.bytes_down for r in rounds)),
            ("from clients", accumulate(r.bytes_up for r in rounds)),
        )
    ]
    return LineChart(title="Bytes, so far", x=_ROUND, lines=lines, unit="bytes")
