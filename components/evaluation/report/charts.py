"""Small SVG charts for a page. They take their colours from the page, light or dark."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from torchmill.components.wording import percent

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360, 40, 10, 10, 30
"""Size and margins of a drawing, in SVG units; on a phone a unit is a pixel."""


class Point(NamedTuple):
    x: float
    y: float
    low: float | None = None
    """Lower end of the interval of y."""
    high: float | None = None


class Series(NamedTuple):
    name: str
    points: Sequence[Point]
    colour: str = "a"
    """CSS class of the page: a, b or quiet."""
    joined: bool = True


class Bar(NamedTuple):
    """A share with its interval; each bar has its own line."""

    name: str
    value: float
    low: float
    high: float
    text: str
    striking: bool = False


def lines(
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
    marked: float | None = None,
    height: int = 220,
) -> Markup:
    """Draw curves or points over common axes.

    Args:
        diagonal: draw the line on which x and y are equal.
        marked: x of a vertical line.
    """
    series = [curve for curve in series if curve.points]
    if not series:
        return Markup("")
    xs = [point.x for curve in series for point in curve.points]
    ys = [value for curve in series for point in curve.points for value in point[1:] if value is not None]
    axes = _Axes(x_range or _padded(xs, 0), y_range or _padded(ys, 0.05), height)
    parts = axes.ticks(whole=all(float(x).is_integer() for x in xs))
    if diagonal:
        parts.append(axes.diagonal())
    if marked is not None:
        parts.append(axes.vertical(marked))
    for curve in series:
        parts += _curve(curve, axes)
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{height - 3}" text-anchor="end">{escape(x_title)}</text>')
    legend = "".join(f'<span class="key {curve.colour}">{escape(curve.name)}</span>' for curve in series if curve.name)
    title = escape(f"{y_title} over {x_title}")
    return Markup(
        f"<figure><figcaption>{escape(y_title)} {legend}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">{"".join(parts)}</svg></figure>'
    )


class _Axes(NamedTuple):
    """Ranges of both axes, and the height of the drawing."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    height: int

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in the drawing."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def ticks(self, whole: bool) -> list[str]:
        """Draw the grid and the numbers at both axes; ``whole`` allows whole numbers alone on the x axis."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        parts = []
        for tick in _ticks(y0, y1):
            y = self.at(x0, tick)[1]
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{tick:.3g}</text>')
        for tick in _ticks(x0, x1, whole=whole):
            x = self.at(tick, y0)[0]
            parts.append(f'<text x="{x:.1f}" y="{self.height - BOTTOM + 14}" text-anchor="middle">{tick:.3g}</text>')
        return parts

    def diagonal(self) -> str:
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        (xa, ya), (xb, yb) = self.at(max(x0, y0), max(x0, y0)), self.at(min(x1, y1), min(x1, y1))
        return f'<line class="even" x1="{xa:.1f}" y1="{ya:.1f}" x2="{xb:.1f}" y2="{yb:.1f}"/>'

    def vertical(self, marked: float) -> str:
        x = self.at(marked, self.y_range[0])[0]
        return f'<line class="even" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{self.height - BOTTOM}"/>'


def _curve(curve: Series, axes: _Axes) -> list[str]:
    """Draw the line, dots and intervals of a series."""
    parts = []
    places = [axes.at(point.x, point.y) for point in curve.points]
    if curve.joined and len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {curve.colour}" points="{path}"/>')
    if len(places) <= 40 or not curve.joined:
        radius = 2.6 if len(places) <= 60 else 1.5
        parts += [f'<circle class="dot {curve.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>' for x, y in places]
    for point in curve.points:
        if point.low is not None and point.high is not None:
            (x, low), (_, high) = axes.at(point.x, point.low), axes.at(point.x, point.high)
            parts.append(
                f'<line class="range {curve.colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            )
    return parts


def bars(rows: Sequence[Bar], reference: float | None = None, limits: tuple[float, float] = (0.0, 1.0)) -> Markup:
    """Draw shares below each other, each with its interval. The axis spans all intervals.

    Args:
        reference: share to compare the others with: a vertical line, always within the axis.
        limits: outermost ends of the axis.
    """
    if not rows:
        return Markup("")
    references = [] if reference is None else [reference]
    low, high = min(*references, *(row.low for row in rows), 1.0), max(*references, *(row.high for row in rows), -1.0)
    space = 0.04 * (high - low) or 0.05
    low, high = max(limits[0], low - space), min(limits[1], high + space)

    def at(share: float) -> float:
        return 100 * min(1.0, max(0.0, (share - low) / (high - low)))

    drawn = []
    for row in rows:
        line = "" if reference is None else f'<i class="ref" style="left:{at(reference):.2f}%"></i>'
        drawn.append(
            f'<div class="bar{" striking" * row.striking}"><span>{escape(row.name)}</span><b>{escape(row.text)}</b>'
            f'<div class="track">{line}<i class="span" style="left:{at(row.low):.2f}%;'
            f'width:{at(row.high) - at(row.low):.2f}%"></i><i class="value" style="left:{at(row.value):.2f}%"></i>'
            "</div></div>"
        )
    ends = "".join(f"<span>{percent(end, 1)}</span>" for end in (low, high))
    return Markup(f'<div class="bars">{"".join(drawn)}<div class="ends">{ends}</div></div>')


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    space = share * (high - low)
    return (low - space, high + space) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return four or five round numbers in a range."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next((factor for factor in (1, 2, 5) if (high - low) / (step * factor) <= 5.5), 10)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]
