"""The colours of plots and pages, by a light and by a dark screen.

Six that differ for every kind of colour vision, each with a contrast of 3 and more to the ground;
what comes after them has the same colours and other dashes.
Source: WCAG 2.2, 1.4.11; Machado, Oliveira and Fernandes 2009, table 1, by which the tests see.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DARK", "DARK_GROUND", "DASHES", "LIGHT", "LIGHT_GROUND", "PLOT_STYLE", "SERIES"]

LIGHT: Final = ("#0a5596", "#f0520a", "#009e84", "#c545d6", "#1a1a1a", "#6b3500")
DARK: Final = ("#5aa9ff", "#f0a30a", "#1fbf8f", "#d977c0", "#f5f5f5", "#e0533d")
LIGHT_GROUND: Final = "#ffffff"
DARK_GROUND: Final = "#16181d"

SERIES: Final = len(LIGHT)
DASHES: Final = ("", "7 3", "2 3", "9 3 2 3")


def _colours(colours: tuple[str, ...]) -> str:
    return "".join(
        f".c{i}{{stroke:{colour}}}.f{i}{{fill:{colour}}}" for i, colour in enumerate(colours)
    )


PLOT_STYLE: Final = (
    ".chart{font:12px system-ui,sans-serif}"
    ".chart text{fill:#333}.chart .name{font-size:14px;font-weight:600}"
    f".ground{{fill:{LIGHT_GROUND}}}.grid{{stroke:#ddd}}.axis{{stroke:#666}}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}"
    + _colours(LIGHT)
    + "@media (prefers-color-scheme:dark){"
    ".chart text{fill:#ddd}"
    f".ground{{fill:{DARK_GROUND}}}.grid{{stroke:#3a3d44}}.axis{{stroke:#999}}"
    + _colours(DARK)
    + "}"
)
"""The style of every plot, in its own file or within a page."""
