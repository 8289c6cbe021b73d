"""Charts as SVG, drawn here: lines over an axis, and bars. Two hundred lines replace a library.

Everything that is drawn is text with numbers in it, so a plot needs no package, is the same on
every machine, and can be read by whoever opens the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from fedsim.report.escaping import escaped
from fedsim.report.palette import DASHES, PLOT_STYLE, SERIES
from fedsim.run.wording import duration, number, size

__all__ = ["BarChart", "Line", "LineChart", "Unit", "draw", "stand_alone", "ticks"]

Unit = Literal["number", "share", "bytes", "seconds", "count"]

_WIDTH, _LEFT, _RIGHT, _TOP = 640, 72, 16, 36
_PLOT_HEIGHT, _BELOW, _LEGEND_ROW = 230, 46, 18
_BAR, _BAR_GAP, _NAMES = 22, 8, 150
_LETTER = 6.6  # the mean width of one at 12 px
_LONGEST_NAME = 44
_MOST_POINTS = 600  # a pixel of the plot each
_MOST_MARKS = 40
_SMALLEST = 1e-100  # a span below it is no span: steps within it would vanish
_LARGEST = 1e100  # beyond it there is nothing to see, and differences overflow


class Span(NamedTuple):
    """What an axis covers."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points (x, y) in the order of x, joined; a y that is not finite parts the line."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """Lines over a common axis, whose units are said at the ticks. `height`: of the plot, in px."""

    title: str
    x: str
    lines: Sequence[Line]
    unit: Unit = "number"
    x_unit: Unit = "count"
    height: int = _PLOT_HEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """Counts by name, from the top, each as long as its share of the largest."""

    title: str
    bars: Sequence[tuple[str, int]]


def draw(chart: LineChart | BarChart) -> str:
    """The chart as an element <svg> for a page that holds `PLOT_STYLE`."""
    return _element(chart, top=0)


def stand_alone(*charts: LineChart | BarChart) -> str:
    """The charts, one beneath the other, as a file of its own, with its style."""
    heights = [_content(chart)[0] for chart in charts]
    tops = accumulate(heights, initial=0)
    parts = [_element(chart, top=top) for chart, top in zip(charts, tops, strict=False)]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" {_box(sum(heights))}>'
        f"<style>{PLOT_STYLE}</style>\n{''.join(parts)}</svg>\n"
    )


def ticks(span: Span, *, most: int = 6) -> list[float]:
    """Round numbers within a span, 1, 2 or 5 times a power of ten apart.

    >>> ticks(Span(0.0, 1.0))
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (span.high - span.low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    # Of three ticks 5 apart none may lie within the span, which may be as narrow as 4.
    return _multiples(span, step) or _multiples(span, 2 * power)


def _multiples(span: Span, step: float) -> list[float]:
    first, last = math.ceil(span.low / step - 1e-9), math.floor(span.high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _element(chart: LineChart | BarChart, *, top: int) -> str:
    height, body = _content(chart)
    title = escaped(chart.title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-label="{title}" '
        f'y="{top}" {_box(height)}><rect class="ground" width="{_WIDTH}" height="{height}"/>'
        f'<text class="name" x="12" y="22">{title}</text>{"".join(body)}</svg>\n'
    )


def _box(height: int) -> str:
    return f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'


def _content(chart: LineChart | BarChart) -> tuple[int, list[str]]:
    return _lines(chart) if isinstance(chart, LineChart) else _bars(chart)


def _lines(chart: LineChart) -> tuple[int, list[str]]:
    lines = [(line.name, _thinned(_drawable(line.points))) for line in chart.lines]
    shown = [point for _, points in lines for point in points if point is not None]
    right, bottom = _WIDTH - _RIGHT, _TOP + chart.height
    legend, rows = _legend([name for name, _ in lines], bottom + _BELOW)
    height = bottom + _BELOW + rows * _LEGEND_ROW
    if not shown:
        return height, [_text(_WIDTH / 2, _TOP + chart.height / 2, "not measured", "middle")]
    across = _span([x for x, _ in shown])
    up = _span([y for _, y in shown])

    def place(point: tuple[float, float]) -> tuple[str, str]:
        x = _LEFT + (point[0] - across.low) / (across.high - across.low) * (right - _LEFT)
        y = bottom - (point[1] - up.low) / (up.high - up.low) * chart.height
        return f"{x:.1f}", f"{y:.1f}"

    body = []
    for tick in ticks(up, most=max(4, 6 * chart.height // _PLOT_HEIGHT)):
        y = place((across.low, tick))[1]
        body.append(f'<path class="grid" d="M{_LEFT} {y}H{right}"/>')
        body.append(_text(_LEFT - 6, float(y) + 4, _said(tick, chart.unit), "end"))
    for tick in ticks(across, most=9):
        if chart.x_unit == "count" and tick != round(tick):
            continue
        x = place((tick, up.low))[0]
        body.append(f'<path class="axis" d="M{x} {bottom}v5"/>')
        body.append(_text(float(x), bottom + 18, _said(tick, chart.x_unit), "middle"))
    body.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
    body.append(_text((_LEFT + right) / 2, bottom + 36, chart.x, "middle"))
    for index, (name, points) in enumerate(lines):
        body += _line(index, name, points, place, chart)
    return height, body + legend


_Point = tuple[float, float]


def _line(
    index: int,
    name: str,
    points: Sequence[_Point | None],
    place: Callable[[_Point], tuple[str, str]],
    chart: LineChart,
) -> Iterator[str]:
    path, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
        else:
            path.append(f"{pen}{' '.join(place(point))}")
            pen = "L"
    yield f'<path class="line c{index % SERIES}"{_dash(index)} d="{"".join(path)}"/>'
    if len(points) > _MOST_MARKS:
        # Of what stands alone no path shows anything.
        around = [None, *points, None]
        points = [p for (a, p), (_, b) in pairwise(pairwise(around)) if a is None and b is None]
    for point in points:
        if point is not None:
            x, y = place(point)
            said = f"{name}: {_said(point[1], chart.unit)} ({chart.x} {point[0]:g})"
            yield f'<circle class="f{index % SERIES}" cx="{x}" cy="{y}" r="2.5">'
            yield f"<title>{escaped(said)}</title></circle>"


def _bars(chart: BarChart) -> tuple[int, list[str]]:
    height = _TOP + len(chart.bars) * (_BAR + _BAR_GAP) + 12
    most = max((count for _, count in chart.bars), default=0)
    room = _WIDTH - _NAMES - 100
    body = []
    for index, (name, count) in enumerate(chart.bars):
        y = _TOP + index * (_BAR + _BAR_GAP)
        width = room * count / most if most else 0.0
        body.append(_text(_NAMES - 8, y + 15, _cut(name, 22), "end"))
        body.append(f'<rect class="f0" x="{_NAMES}" y="{y}" width="{width:.1f}" height="{_BAR}"/>')
        said = f"{count:,}" + (f" ({100 * count / most:.1f}%)" if most else "")
        body.append(_text(_NAMES + width + 6, y + 15, said, "start"))
    return height, body


def _legend(names: Sequence[str], top: float) -> tuple[list[str], int]:
    """What each line is, in as many rows as it takes; nothing for a single one."""
    if len(names) < 2:
        return [], 0
    parts: list[str] = []
    x, row = float(_LEFT), 0
    for index, name in enumerate(names):
        text = _cut(name, _LONGEST_NAME)
        width = 34 + _LETTER * len(text) + 12
        if x > _LEFT and x + width > _WIDTH - _RIGHT:
            x, row = float(_LEFT), row + 1
        y = top + row * _LEGEND_ROW + 6
        d = f"M{x:.1f} {y - 4}h24"
        parts.append(f'<path class="line c{index % SERIES}"{_dash(index)} d="{d}"/>')
        parts.append(_text(x + 30, y, text, "start"))
        x += width
    return parts, row + 1


def _dash(index: int) -> str:
    dash = DASHES[index // SERIES % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _drawable(points: Sequence[_Point]) -> list[_Point | None]:
    return [
        (float(x), float(y))
        if math.isfinite(x) and math.isfinite(y) and max(abs(x), abs(y)) < _LARGEST
        else None
        for x, y in points
    ]


def _thinned(points: list[_Point | None]) -> list[_Point | None]:
    """At most about `_MOST_POINTS` of them: of each stretch the lowest and the highest."""
    stretch = math.ceil(2 * len(points) / _MOST_POINTS)
    if stretch <= 2:
        return points
    kept: list[_Point | None] = []
    for begin in range(0, len(points), stretch):
        there = [point for point in points[begin : begin + stretch] if point is not None]
        ends = {min(there, key=_height), max(there, key=_height)} if there else {None}
        kept += sorted(ends, key=lambda point: point or (0.0, 0.0))
    return kept


def _height(point: _Point) -> float:
    return point[1]


def _span(values: Sequence[float]) -> Span:
    """From the least to the largest, or around what is hardly more than one value."""
    low, high = min(values), max(values)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), _SMALLEST):
        half = max(abs(low), abs(high)) * 0.05
        half = half if half > _SMALLEST else 0.5
        return Span(low - half, high + half)
    return Span(low, high)


def _said(value: float, unit: Unit) -> str:
    return _SAID[unit](value)


def _plain(value: float) -> str:
    return f"{value:g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else number(value)


_SAID: Final = MappingProxyType[Unit, Callable[[float], str]](
    {
        "number": _plain,
        "count": lambda value: f"{value:,.0f}" if abs(value) < 1e9 else number(value),
        "share": lambda value: f"{100 * value:.4g}%",
        "bytes": lambda value: size(max(0, round(value))),
        "seconds": lambda value: duration(value) if value >= 120 else f"{value:g} s",
    }
)
