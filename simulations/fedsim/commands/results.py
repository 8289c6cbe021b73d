"""How a run is shown when it has ended, and beside others: as data and in words."""

from __future__ import annotations

from collections.abc import Iterator

from fedcore.console import Json
from fedcore.privacy.commands.layout import rows
from fedsim.records import Mode, Totals
from fedsim.records.durable import is_locked
from fedsim.records.plain_json import to_plain
from fedsim.run.reading import Run, read_state
from fedsim.run.wording import NONE, duration, number, share, size

__all__ = ["data_of", "line_of", "state_of", "words_of"]

_MADE = ("report.html", "model.safetensors")


def data_of(run: Run) -> dict[str, Json]:
    """A run for scripts: what it is, how far it is, and what came of it."""
    last = run.rounds[-1] if run.rounds else None
    test = next((record.test for record in run.rounds[::-1] if record.test is not None), None)
    return {
        "folder": str(run.path),
        "state": state_of(run),
        "run": to_plain(run.record),
        "rounds": {"done": len(run.rounds), "planned": _planned(run)},
        "model": last.model if last else None,
        "accuracy": test.accuracy if test else None,
        "loss": test.loss if test else None,
        "privacy": to_plain(last.privacy) if last else None,
        "label": run.record.mode.words,
        "files": {name: str(run.path / name) for name in _MADE if (run.path / name).exists()},
        "result": to_plain(run.result),
    }


def words_of(run: Run) -> str:
    """A run in a block of lines."""
    totals = Totals.of(run.rounds)
    last = run.rounds[-1] if run.rounds else None
    state = state_of(run)
    if run.result is not None:
        state = f"{state}: {run.result.ended}"
    done = f"{len(run.rounds)} of {_planned(run)} rounds"
    if state == "stopped" and (kept := _kept(run)) != len(run.rounds):
        done += f", and a checkpoint of {kept}: it goes on after round {kept}"
    model = NONE if last is None else last.model
    if last is not None and not _there(run, "model.safetensors"):
        model += f", of round {last.round + 1}; its file is written at the end"
    entries = [
        ("run", run.record.id),
        ("state", f"{state}; {done}"),
        ("model", model),
        ("test set", _tested(run)),
        *(("own rows", said) for said in _own(run)),
        ("privacy", _spent(run)),
        ("mode", run.record.mode.words),
        (
            "clients",
            f"{totals.selected:,} selected, {totals.reported:,} reported; {size(totals.bytes_down)}"
            f" down, {size(totals.bytes_up)} up",
        ),
        ("time", f"{duration(totals.virtual_s)} virtual, computed in {duration(totals.wall_s)}"),
        *((name.partition(".")[0], str(run.path / name)) for name in _MADE if _there(run, name)),
    ]
    if state_of(run) == "stopped":
        entries.append(("go on with", f"fed sim run --resume {run.path}"))
    return rows(entries)


def line_of(run: Run) -> str:
    """A run in one line."""
    parts = [f"{run.record.id:<40}", f"{state_of(run):<8}"]
    parts.append(f"round {len(run.rounds)}/{_planned(run)}")
    data = data_of(run)
    if isinstance(accuracy := data["accuracy"], float):
        parts.append(f"acc {share(accuracy)}")
    if isinstance(loss := data["loss"], float):
        parts.append(f"loss {number(loss)}")
    if run.rounds and (spent := run.rounds[-1].privacy) is not None:
        parts.append(f"eps {spent.epsilon:.2f}/{spent.budget:.2f}")
    plain = run.record.mode is Mode.PLAIN
    parts.append("plain, NOT PRIVATE" if plain else run.record.mode.value)
    return "  ".join(parts)


def state_of(run: Run) -> str:
    """Whether it has "ended", is "running", or was "stopped"."""
    if run.result is not None:
        return "ended"
    return "running" if is_locked(run.path) else "stopped"


def _kept(run: Run) -> int:
    """After how many rounds a run goes on."""
    saved = read_state(run)
    return 0 if saved is None else saved.rounds


def _planned(run: Run) -> int:
    table = run.task["rounds"]
    assert isinstance(table, dict)
    count = table["count"]
    assert isinstance(count, int)
    return count


def _tested(run: Run) -> str:
    test = next((record.test for record in run.rounds[::-1] if record.test is not None), None)
    if test is None:
        return "nothing was measured"
    said = f"loss {number(test.loss)}"
    if test.accuracy is None:
        return said
    best = max(r.test.accuracy for r in run.rounds if r.test and r.test.accuracy is not None)
    return f"accuracy {share(test.accuracy)}, at best {share(best)}; {said}"


def _own(run: Run) -> Iterator[str]:
    """How good the models are that clients use, where that was measured."""
    for record in run.rounds[::-1]:
        if (found := record.clients) is not None:
            on = "" if record.own_rows is None else f" on {record.own_rows.words}"
            yield (
                f"accuracy {share(found.mean)}{on}, mean of {found.clients:,} clients, "
                f"{share(found.p10)} to {share(found.p90)}"
            )
            return


def _spent(run: Run) -> str:
    spent = run.rounds[-1].privacy if run.rounds else None
    if spent is None:
        return "none is promised" if not run.record.private else "nothing is spent"
    return f"epsilon {spent.epsilon:.3f} of {spent.budget:.3f} at delta {spent.delta:.3g}"


def _there(run: Run, name: str) -> bool:
    return (run.path / name).exists()
