"""Whatever is measured, a chart is a picture: finite, within its frame, with round ticks."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import example, given, strategies as st

from fedsim.report.chart import BarChart, Line, LineChart, Span, Unit, draw, stand_alone, ticks
from fedsim.report.palette import PLOT_STYLE
from tests.sim.report.reading_pages import parsed
from tests.sim.report.runs import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"
FLOATS = st.floats()
POINTS = st.lists(st.tuples(FLOATS, FLOATS), max_size=30)


def chart_of(*lines: list[tuple[float, float]], unit: Unit = "number") -> LineChart:
    named = [Line(name=f"line {i}", points=points) for i, points in enumerate(lines)]
    return LineChart(title="Loss", x="round", lines=named, unit=unit)


def coordinates(svg: str) -> list[tuple[float, float]]:
    """Where the lines of data go."""
    paths = (path.get("d", "") for path in parsed(svg).iter(f"{SVG}path"))
    return [
        (float(x), float(y))
        for path in paths
        for x, y in re.findall(r"[ML](-?[\d.]+|nan|inf) (-?[\d.]+|nan|inf)(?![Hv\d])", path)
    ]


@given(st.lists(POINTS, max_size=4), st.sampled_from(["number", "share", "bytes", "seconds"]))
@example([[(0.0, 0.0), (0.0, 5e-324)]], "number")
def test_any_points_at_all_are_drawn_within_the_frame(
    lines: list[list[tuple[float, float]]], unit: Unit
) -> None:
    svg = draw(chart_of(*lines, unit=unit))
    root = parsed(svg)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    assert all(0 <= x <= width and 0 <= y <= height for x, y in coordinates(svg))
    assert "nan" not in svg.lower()


@given(st.floats(-1e90, 1e90), st.floats(1e-6, 1e90), st.integers(3, 9))
def test_ticks_are_evenly_apart_within_the_span_and_few(
    low: float, width: float, most: int
) -> None:
    span = Span(low, low + max(width, abs(low) * 1e-6))
    found = ticks(span, most=most)
    assert 1 <= len(found) <= most + 1
    slack = 1e-6 * (span.high - span.low)
    assert span.low - slack <= found[0] <= found[-1] <= span.high + slack
    gaps = [b - a for a, b in pairwise(found)]
    assert all(math.isclose(gap, gaps[0], rel_tol=1e-3) for gap in gaps)


def test_a_chart_of_nothing_says_so() -> None:
    for chart in (chart_of(), chart_of([]), chart_of([(0.0, math.nan)])):
        assert "not measured" in draw(chart)


def test_one_round_is_a_mark_with_its_value() -> None:
    svg = draw(chart_of([(0.0, 0.5)], unit="share"))
    (mark,) = parsed(svg).iter(f"{SVG}circle")
    assert mark[0].text == "line 0: 50% (round 0)"


def test_a_value_that_is_not_finite_parts_the_line() -> None:
    svg = draw(chart_of([(0.0, 1.0), (1.0, 2.0), (2.0, math.inf), (3.0, 2.0), (4.0, 1.0)]))
    line = next(p for p in parsed(svg).iter(f"{SVG}path") if "line" in p.get("class", ""))
    assert line.get("d", "").count("M") == 2


def test_of_very_many_points_the_extremes_stay_and_the_file_is_small() -> None:
    points = [(float(i), math.sin(i / 50)) for i in range(50_000)]
    points[31_234] = (31_234.0, 9.0)
    svg = draw(chart_of(points))
    assert len(svg) < 40_000
    tops = [y for _, y in coordinates(svg)]
    assert tops.count(min(tops)) == 1


def test_a_point_alone_among_very_many_is_a_mark() -> None:
    points = [(float(i), 0.5 if i == 50 else math.nan) for i in range(100)]
    assert len(list(parsed(draw(chart_of(points))).iter(f"{SVG}circle"))) == 1


def test_lines_beyond_the_colours_differ_by_their_dashes() -> None:
    svg = draw(chart_of(*[[(0.0, float(i)), (1.0, float(i))] for i in range(24)]))
    drawn = [p for p in parsed(svg).iter(f"{SVG}path") if "line" in p.get("class", "")]
    looks = [(p.get("class"), p.get("stroke-dasharray")) for p in drawn]
    assert len(set(looks)) == 24
    assert len(looks) == 48  # with the legend
    assert sum("line 23" in (t.text or "") for t in parsed(svg).iter(f"{SVG}text")) == 1


@pytest.mark.parametrize("name", [HOSTILE, "x" * 10_000, ""])
def test_no_name_breaks_a_chart(name: str) -> None:
    line = Line(name=name, points=[(0.0, 1.0), (1.0, 2.0)])
    lines = LineChart(title=name, x=name, lines=[line, line])
    for chart in (lines, BarChart(title=name, bars=[(name, 3), (name, 0)])):
        for svg in (draw(chart), stand_alone(chart)):
            assert {element.tag for element in parsed(svg).iter()} <= {
                SVG + tag for tag in ("svg", "style", "rect", "text", "path", "circle", "title")
            }


def test_a_chart_in_its_own_file_brings_its_style_and_one_in_a_page_does_not() -> None:
    chart = chart_of([(0.0, 1.0)])
    assert PLOT_STYLE in stand_alone(chart)
    assert "<style" not in draw(chart)


def test_charts_in_one_file_stand_beneath_each_other_and_are_what_they_are_alone() -> None:
    low = LineChart(title="low", x="round", lines=[Line(name="a", points=[(1, 1)])], height=60)
    high = chart_of([(1.0, 2.0), (2.0, 3.0)])
    both = parsed(stand_alone(low, high))
    parts = [each for each in both if each.tag.endswith("svg")]
    heights = [int(parsed(draw(chart)).attrib["height"]) for chart in (low, high)]
    assert [int(each.attrib["y"]) for each in parts] == [0, heights[0]]
    assert int(both.attrib["height"]) == sum(heights)
    assert heights[1] - heights[0] == 230 - 60


def test_bars_are_as_long_as_their_share_of_the_largest() -> None:
    svg = draw(BarChart(title="Clients", bars=[("selected", 200), ("reported", 50), ("none", 0)]))
    bars = [r for r in parsed(svg).iter(f"{SVG}rect") if r.get("class") == "f0"]
    widths = [float(bar.get("width", "")) for bar in bars]
    assert widths[1] == pytest.approx(widths[0] / 4, abs=0.1)
    assert widths[2] == 0
    assert "50 (25.0%)" in svg
    assert draw(BarChart(title="Clients", bars=[("none", 0)]))
    assert draw(BarChart(title="Clients", bars=[]))
