"""The transition table as people read it: `python -m fedcore.rounds.diagram` prints it.

`docs/rounds.md` holds what this prints, and a test holds the two together.
"""

from __future__ import annotations

from fedcore.rounds.phases import Phase
from fedcore.rounds.table import EDGES, TABLE

__all__ = ["diagram"]

_WITHOUT_RESULT = (Phase.ABANDONED, Phase.FAILED, Phase.CANCELLED)


def diagram() -> str:
    """A Mermaid diagram of the way to a result, then a Markdown table of all that may happen."""
    return "\n".join(["```mermaid", *_drawing(), "```", "", *_rows()])


def _drawing() -> list[str]:
    lines = ["stateDiagram-v2", "    direction LR", f"    [*] --> {Phase.PENDING.name}"]
    for source, target in _in_order():
        if target not in _WITHOUT_RESULT:
            names = sorted(
                event.__name__
                for (phase, event), targets in TABLE.items()
                if phase is source and target in targets
            )
            lines.append(f"    {source.name} --> {target.name}: {', '.join(names)}")
    return [*lines, f"    {Phase.SCRUBBED.name} --> [*]"]


def _in_order() -> list[tuple[Phase, Phase]]:
    order = list(Phase)
    return sorted(EDGES, key=lambda edge: (order.index(edge[0]), order.index(edge[1])))


def _rows() -> list[str]:
    """One row for each event and outcome, with all phases in which it has that outcome."""
    lines = ["| event | in | leads to |", "|---|---|---|"]
    for event in dict.fromkeys(event for _, event in TABLE):
        phases_of: dict[str, list[str]] = {}
        for phase in Phase:
            if (phase, event) in TABLE:
                outcome = _names(TABLE[phase, event], phase)
                phases_of.setdefault(outcome, []).append(phase.name)
        for outcome, phases in phases_of.items():
            found = "every phase" if len(phases) == len(Phase) else ", ".join(phases)
            lines.append(f"| `{event.__name__}` | {found} | {outcome} |")
    return lines


def _names(targets: frozenset[Phase], phase: Phase) -> str:
    return " or ".join("the same" if t is phase else t.name for t in Phase if t in targets)


if __name__ == "__main__":
    print(diagram())
