"""How far a transfer is: a bar on a terminal, and elsewhere a line for each tenth if asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedcore.console import Console
from fedserver.admin.showing import size

__all__ = ["transfer_bar"]

_PARTS = 10


@contextmanager
def transfer_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """What to tell of how many of how many bytes are moved. `what`: is moved, in words."""
    if console.verbosity < 0 or not sys.stderr.isatty():
        yield _lines(console, what)
        return
    from rich.console import Console as Terminal
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Terminal(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    with progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, whole: progress.update(bar, total=whole, completed=done)


def _lines(console: Console, what: str) -> Callable[[int, int], None]:
    told = 0

    def tell(done: int, whole: int) -> None:
        nonlocal told
        if (part := _PARTS * done // whole) > told:
            told = part
            console.detail(f"{what}: {size(done)} of {size(whole)}")

    return tell
