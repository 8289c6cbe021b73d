"""What all of a run's parts know of it: its records, as plain JSON too, and how it gets to disk."""

from fedsim.records.records import (
    Evaluation,
    Mode,
    OwnRows,
    Privacy,
    Result,
    RoundRecord,
    RunRecord,
    Speed,
    Spread,
    Totals,
    Versions,
    digest_of,
)

__all__ = [
    "Evaluation",
    "Mode",
    "OwnRows",
    "Privacy",
    "Result",
    "RoundRecord",
    "RunRecord",
    "Speed",
    "Spread",
    "Totals",
    "Versions",
    "digest_of",
]
