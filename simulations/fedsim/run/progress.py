"""How a run shows that it goes on: a bar on a terminal, and everywhere a line a round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from fedcore.console import plain
from fedsim.records import RoundRecord
from fedsim.run.wording import drops, duration, number, share, size

__all__ = ["progress", "round_line"]


def round_line(record: RoundRecord, *, rounds: int) -> str:
    """A round of `rounds` in one line, for people: the first is 1. Times are the machine's.

    The loss and the accuracy are those on the test set; where that was not evaluated, the loss of
    training, if it may be shown. Clients' mean is told with the rows that they were measured on.
    """
    parts = [f"round {record.round + 1}/{rounds}"]
    if record.attempts > 1:
        parts.append(f"attempt {record.attempts}")
    parts.append(f"sel {record.selected} ok {record.reported} drop {plain(drops(record.drops))}")
    if record.test is not None:
        parts.append(f"loss {number(record.test.loss)}")
        if record.test.accuracy is not None:
            parts.append(f"acc {share(record.test.accuracy)}")
    elif record.train_loss is not None:
        parts.append(f"train loss {number(record.train_loss)}")
    if record.clients is not None:
        on = "" if record.own_rows is None else f" on {record.own_rows.words}"
        parts.append(f"clients {share(record.clients.mean)}{on}")
    if (spent := record.privacy) is not None:
        parts.append(f"eps {spent.epsilon:.2f}/{spent.budget:.2f}")
    parts += [f"up {size(record.bytes_up)}", duration(record.speed.wall_s)]
    return "  ".join(parts)


@contextmanager
def progress(
    rounds: int, *, done: int = 0, stream: TextIO | None = None
) -> Iterator[Callable[[RoundRecord], None]]:
    """What to tell of each round that is over; `done` of `rounds` were so before.

    `stream`: standard error by default. A bar stands below the lines while it is a terminal and
    rich is installed.
    """
    out = sys.stderr if stream is None else stream
    if out.isatty():
        try:
            import rich  # noqa: F401
        except ImportError:
            pass
        else:
            with _bar(out, rounds, done) as tell:
                yield tell
            return
    yield lambda record: print(round_line(record, rounds=rounds), file=out, flush=True)


@contextmanager
def _bar(out: TextIO, rounds: int, done: int) -> Iterator[Callable[[RoundRecord], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    terminal = Console(file=out, highlight=False, markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task("", total=rounds, completed=done)

        def tell(record: RoundRecord) -> None:
            terminal.print(round_line(record, rounds=rounds), soft_wrap=True)
            bar.update(task, completed=record.round + 1)

        yield tell
