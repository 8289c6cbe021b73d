"""One page that tells of a run: no script, no request, nothing from elsewhere that acts.

Its policy forbids the browser everything but the one style that it holds, so even a text that was
not escaped could load nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from fedcore.errors import CheckpointError
from fedsim.records import Mode, RoundRecord, Totals
from fedsim.records.durable import write_atomically
from fedsim.report.chart import draw, stand_alone
from fedsim.report.escaping import escaped
from fedsim.report.palette import DARK_GROUND, LIGHT_GROUND, PLOT_STYLE
from fedsim.report.plots import plots_of
from fedsim.report.settings import settings_of, written
from fedsim.run.reading import Run
from fedsim.run.wording import NONE, drops, duration, number, share, size

__all__ = ["document", "render_page", "render_table", "write_report"]

_MOST_ROWS: Final = 500

_STYLE: Final = (
    f"body{{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;"
    f"background:{LIGHT_GROUND};color:#222}}"
    "h1{margin-bottom:.2rem}.mode{padding:.5rem .8rem;border-left:6px solid #0a5596;"
    "background:#eef3f8}.mode.plain{border-color:#c00000;background:#fdecec;font-weight:700}"
    ".plots{display:flex;flex-wrap:wrap;gap:1rem}.plots svg{max-width:100%;height:auto}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0}"
    "th,td{padding:.2rem .7rem .2rem 0;text-align:left;border-bottom:1px solid #ddd;"
    "vertical-align:top;overflow-wrap:break-word}td.n,th.n{text-align:right;white-space:nowrap}"
    f"@media (prefers-color-scheme:dark){{body{{background:{DARK_GROUND};color:#ddd}}"
    "th,td{border-color:#3a3d44}.mode{background:#1d2733}.mode.plain{background:#3a1a1a}}"
) + PLOT_STYLE

_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
)


def write_report(run: Run) -> Path:
    """Writes report.html and plots/*.svg into the run's folder, and says where the page is.

    Raises: CheckpointError if the disk takes nothing.
    """
    page, plots = run.path / "report.html", run.path / "plots"
    try:
        plots.mkdir(exist_ok=True)
        for name, chart in plots_of(run.rounds).items():
            write_atomically(plots / f"{name}.svg", [stand_alone(chart).encode()])
        write_atomically(page, [render_page(run).encode()])
    except OSError as error:
        raise CheckpointError(
            f"the report of {run.path.name} cannot be written",
            where=str(run.path),
            why=error.strerror or str(error),
            fix="make room or give access, and write the report again: the run is complete",
        ) from error
    return page


def render_page(run: Run) -> str:
    """The page of a run, finished or not, as the text of an HTML file."""
    record = run.record
    plain = " plain" if record.mode is Mode.PLAIN else ""
    plots = "".join(draw(chart) for chart in plots_of(run.rounds).values())
    settings = [(name, written(value)) for name, value in settings_of(run).items()]
    return document(
        record.name,
        f'<p class="mode{plain}">{escaped(record.mode.words)}</p>\n'
        f"{render_table(('What', 'Value'), _summary(run))}\n"
        f'<h2>Plots</h2><div class="plots">\n{plots}</div>\n'
        f"<h2>Clients lost</h2>{_losses(run.rounds)}\n"
        f"<h2>Rounds</h2>{_rounds(run.rounds)}\n"
        f"<h2>Configuration</h2>{render_table(('Setting', 'Value'), settings)}\n",
    )


def document(title: str, body: str) -> str:
    """An HTML file around `body`, whose texts are escaped already; the `title` is not yet."""
    title = escaped(title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{title}</h1>\n{body}</body></html>\n"
    )


def render_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()
) -> str:
    """A table of texts, all escaped; columns of `numbers` stand to the right."""
    kinds = [' class="n"' if name in numbers else "" for name in head]

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{kind}>{escaped(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>\n" for cells in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{row(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _summary(run: Run) -> list[tuple[str, str]]:
    record, result, totals = run.record, run.result, Totals.of(run.rounds)
    versions = record.versions
    rows = [
        ("Run", record.id),
        ("Ended", result.ended if result else "not yet: it goes on, or was stopped"),
        ("Rounds", str(totals.rounds)),
    ]
    if result is not None and result.test is not None:
        rows.append(("Test loss", number(result.test.loss)))
        rows.append(("Test accuracy", share(result.test.accuracy)))
        rows.append(("Best test accuracy", share(result.best_accuracy)))
        rows += [(f"Test {name}", number(value)) for name, value in result.test.metrics.items()]
    if result is not None:
        on = "" if result.own_rows is None else f" on their own {result.own_rows.words}"
        if (spread := result.clients) is not None:
            said = f"{share(spread.mean)} in the mean of {spread.clients:,} clients"
            rows.append((f"Accuracy{on}", said))
        rows += [(f"Personal {name}{on}", number(of)) for name, of in result.personal.items()]
    if run.rounds and (spent := run.rounds[-1].privacy) is not None:
        said = f"ε {spent.epsilon:.3f} of {spent.budget:.3f}, δ {spent.delta:.1e}"
        rows.append(("Privacy spent", said))
    rows += [
        ("Virtual time", duration(totals.virtual_s)),
        ("Computed in", duration(totals.wall_s)),
        ("Bytes to clients, from clients", f"{size(totals.bytes_down)}, {size(totals.bytes_up)}"),
        ("Clients selected, reported", f"{totals.selected:,}, {totals.reported:,}"),
        ("Clients lost", drops(totals.lost)),
        ("Model (SHA-256 of its float32 values)", run.rounds[-1].model if run.rounds else NONE),
        ("Scenario (SHA-256)", record.scenario_digest),
        ("Task (SHA-256)", record.task_digest),
        ("Seeds", ", ".join(f"{name} {seed}" for name, seed in record.seeds.items()) or NONE),
        ("fedcore, NumPy, Python", f"{versions.fedcore}, {versions.numpy}, {versions.python}"),
        ("BLAS", versions.blas),
    ]
    return rows


def _losses(rounds: Sequence[RoundRecord]) -> str:
    lost: dict[tuple[str, str], int] = {}
    for record in rounds:
        for phase, causes in record.lost.items():
            for cause, count in causes.items():
                lost[phase, cause] = lost.get((phase, cause), 0) + count
    if not lost:
        return "<p>None.</p>"
    rows = [(phase, cause, f"{count:,}") for (phase, cause), count in lost.items()]
    return render_table(("Phase", "Cause", "Clients"), rows, numbers=("Clients",))


def _rounds(rounds: Sequence[RoundRecord]) -> str:
    """A table of all rounds, or evenly chosen ones of many; the last is always there."""
    stride = -(-len(rounds) // _MOST_ROWS) or 1
    shown = rounds[::-1][::stride][::-1]
    columns = [_row(record) for record in shown]
    if not columns:
        return "<p>None yet.</p>"
    names = [name for name in columns[0] if any(row[name] != NONE for row in columns)]
    note = f"<p>Every {stride}th of {len(rounds):,} rounds.</p>" if stride > 1 else ""
    rows = ([row[name] for name in names] for row in columns)
    return note + render_table(names, rows, numbers=names)


def _row(record: RoundRecord) -> Mapping[str, str]:
    test, clients, spent = record.test, record.clients, record.privacy
    return {
        "Round": str(record.round + 1),
        "Attempts": str(record.attempts) if record.attempts > 1 else NONE,
        "Until": duration(record.end_s),
        "Selected": f"{record.selected:,}",
        "Reported": f"{record.reported:,}",
        "Lost": f"{sum(record.drops.values()):,}",
        "Training loss": number(record.train_loss),
        "Test loss": number(test.loss if test else None),
        "Accuracy": share(test.accuracy if test else None),
        "Clients p10": share(clients.p10 if clients else None),
        "p50": share(clients.p50 if clients else None),
        "p90": share(clients.p90 if clients else None),
        "Personal": share(record.personal.get("accuracy")),
        "ε": f"{spent.epsilon:.3f}" if spent else NONE,
        "Down": size(record.bytes_down),
        "Up": size(record.bytes_up),
        "Trainings/s": f"{record.speed.trainings_per_s:,.1f}",
    }
