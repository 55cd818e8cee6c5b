"""Small charts as SVG. Colours come from the page's style, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from metriclab.report.html import Markup, Number, short, tag
from metriclab.report.labels import compact

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 12, 30
COLOURS = 8
MOST_POINTS = 300
FEW_POINTS = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to places: low lies at start, high at end, in units of the drawing."""

    low: Number
    high: Number
    start: Number
    end: Number

    def __call__(self, value: Number) -> Number:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @classmethod
    def around(cls, values: Sequence[Number], start: Number, end: Number, *, share: Number = 0.04) -> Scale:
        """One that holds all values, with a little room on both sides."""
        low, high = min(values), max(values)
        # One value alone still gets a scale that can be read.
        room = (high - low) * share if high > low else max(abs(high) * 0.1, 1e-6)
        return cls(low - room, high + room, start, end)

    def ticks(self, wanted: int = 4) -> list[Number]:
        """Round numbers within the scale, about as many as wanted."""
        step = (self.high - self.low) / wanted
        size = 10.0 ** math.floor(math.log10(step))
        step = min((factor * size for factor in (1, 2, 5, 10)), key=lambda round_step: abs(round_step - step))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{at * step:.12g}") for at in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart; its colour and dashes go by its number among the series of the page."""

    name: str
    xs: Sequence[Number]
    ys: Sequence[Number]
    number: int = 0

    def thinned(self) -> tuple[list[Number], list[Number]]:
        """Points no closer than the eye can tell: means of equal stretches."""
        stretch = math.ceil(len(self.xs) / MOST_POINTS)
        parts = range(0, len(self.xs), stretch)
        xs, ys = (
            [math.fsum(v[at : at + stretch]) / len(v[at : at + stretch]) for at in parts] for v in (self.xs, self.ys)
        )
        return xs, ys


def style(number: int) -> str:
    """The class of a series."""
    return f"s{number % COLOURS}{' dashed' if number % (2 * COLOURS) >= COLOURS else ''}"


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str,
    mark: Number | None = None,
    within: Sequence[Number] = (),
) -> Markup:
    """Lines over a common x.

    Args:
        title: of the figure.
        series: at least one, each of at least one finite point.
        x_name: what x is.
        mark: an x to mark by an upright line.
        within: further values of y that the scale holds, so that several charts can share one.
    """
    thin = [one.thinned() for one in series]
    across = Scale.around([x for xs, _ in thin for x in xs], LEFT, WIDTH - RIGHT, share=0)
    up = Scale.around([*within, *(y for _, ys in thin for y in ys)], HEIGHT - BOTTOM, TOP)
    drawn = [part for one, (xs, ys) in zip(series, thin, strict=True) for part in _line(one, xs, ys, across, up)]
    if mark is not None and across.low <= mark <= across.high:
        drawn.insert(0, tag("line", x1=across(mark), x2=across(mark), y1=TOP, y2=HEIGHT - BOTTOM, class_="mark"))
    told = "; ".join(f"{one.name}: {one.ys[0]:.4g} to {one.ys[-1]:.4g}" for one in series)
    return figure(title, [*axes(across, up, x_name), *drawn], f"{title} over {x_name}. {told}.")


def _line(one: Series, xs: Sequence[Number], ys: Sequence[Number], across: Scale, up: Scale) -> list[Markup]:
    if len(xs) == 1:
        return [tag("circle", cx=across(xs[0]), cy=up(ys[0]), r=3.5, class_=f"dot {style(one.number)}")]
    places = [(across(x), up(y)) for x, y in zip(xs, ys, strict=True)]
    points = " ".join(f"{x:g},{y:g}" for x, y in places)
    # Few points are marked, so that lines can be told apart without colours.
    marks = [shape(x, y, one.number, one.name, 2.6) for x, y in places] if len(places) <= FEW_POINTS else []
    return [tag("polyline", points=points, class_=f"line {style(one.number)}"), *marks]


def axes(across: Scale, up: Scale, x_name: str) -> list[Markup]:
    """Faint lines with their numbers."""
    left, right = sorted((across.start, across.end))
    bottom = max(up.start, up.end)
    drawn = []
    for y in up.ticks():
        drawn.append(tag("line", x1=left, x2=right, y1=up(y), y2=up(y), class_="grid"))
        drawn.append(tag("text", _tick(y), x=left - 6, y=up(y) + 3.5, class_="tick end"))
    for x in across.ticks():
        drawn.append(tag("text", _tick(x), x=across(x), y=bottom + 14, class_="tick middle"))
    drawn.append(tag("text", x_name, x=right, y=bottom + 27, class_="tick end"))
    return drawn


def _tick(value: Number) -> str:
    size = abs(value)
    return compact(value).replace(" ", "") if size >= 1e4 else f"{value:.3g}" if size < 1000 else f"{value:,.0f}"


def figure(title: str, drawn: Sequence[Markup], told: str, *, size: tuple[Number, Number] = (WIDTH, HEIGHT)) -> Markup:
    """A drawing under its title, with words in its place for those who cannot see it."""
    box = f"0 0 {size[0]:g} {size[1]:g}"
    svg = tag("svg", drawn, viewBox=box, role="img", aria_label=told, class_="chart")
    return tag("figure", tag("figcaption", title), svg)


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a scatter, with the name that stands beside it."""

    name: str
    x: Number
    y: Number
    number: int


def scatter(title: str, points: Sequence[Point], *, x_name: str, y_name: str) -> Markup:
    """Points, each of its own colour and shape."""
    across = Scale.around([point.x for point in points], LEFT, WIDTH - RIGHT, share=0.08)
    up = Scale.around([point.y for point in points], HEIGHT - BOTTOM, TOP, share=0.08)
    drawn = [shape(across(point.x), up(point.y), point.number, point.name) for point in points]
    told = "; ".join(f"{point.name}: {y_name} {point.y:.4g} at {compact(point.x)}" for point in points)
    return figure(title, [*axes(across, up, x_name), *drawn], f"{title}. {told}.")


def shape(x: Number, y: Number, number: int, name: str, size: Number = 4.5) -> Markup:
    """The mark of a series: a circle, square, triangle or diamond."""
    corners = {
        1: f"M{x - size:g} {y - size:g}h{2 * size:g}v{2 * size:g}h{-2 * size:g}z",
        2: f"M{x:g} {y - size * 1.2:g}L{x + size * 1.2:g} {y + size:g}H{x - size * 1.2:g}z",
        3: f"M{x:g} {y - size * 1.4:g}L{x + size * 1.4:g} {y:g}L{x:g} {y + size * 1.4:g}L{x - size * 1.4:g} {y:g}z",
    }
    kind, drawn = number % 4, style(number)
    title = tag("title", short(name))
    if kind == 0:
        circle = tag("circle", cx=x, cy=y, r=size, class_=f"dot {drawn}")
        return tag("g", title, circle)
    return tag("g", title, tag("path", d=corners[kind], class_=f"dot {drawn}"))


def legend(names: Sequence[str]) -> Markup:
    """What belongs to which series, by the mark and the line of each."""
    items = [
        tag(
            "li",
            tag(
                "svg",
                tag("line", x1=0, x2=28, y1=8, y2=8, class_=f"line {style(number)}"),
                shape(14, 8, number, name, 4),
                viewBox="0 0 28 16",
                aria_hidden="true",
            ),
            short(name, 60),
        )
        for number, name in enumerate(names)
    ]
    return tag("ul", items, class_="legend")


@dataclass(frozen=True, slots=True)
class Range:
    """A row of a forest plot: a value, the intervals around it (the first one thick), and single results as ticks."""

    name: str
    value: Number
    intervals: Sequence[tuple[Number, Number] | None] = ()
    single: Sequence[Number] = ()
    number: int = 0


def forest(title: str, rows: Sequence[Range], *, x_name: str, zero: bool = False) -> Markup:
    """Values with their intervals, one under the other.

    Args:
        title: of the figure.
        rows: at least one.
        x_name: what the values are.
        zero: whether 0 is in the picture, marked by a line.
    """
    # Names stand above the intervals, so that a phone shows the whole drawing at a size that can be read.
    width, left, height = 480, 14, 42
    bottom = TOP + height * len(rows)
    ends = [end for row in rows for pair in row.intervals if pair for end in pair]
    values = [
        *ends,
        *(row.value for row in rows),
        *(one for row in rows for one in row.single),
        *([0.0] if zero else []),
    ]
    across = Scale.around(values, left, width - 16)
    drawn = []
    for x in across.ticks(5):
        drawn.append(tag("line", x1=across(x), x2=across(x), y1=TOP, y2=bottom, class_="grid"))
        drawn.append(tag("text", _tick(x), x=across(x), y=bottom + 16, class_="tick middle"))
    if zero:
        drawn.append(tag("line", x1=across(0), x2=across(0), y1=TOP, y2=bottom, class_="mark"))
    for at, row in enumerate(rows):
        drawn += _forest_row(row, across, TOP + height * (at + 0.7))
    drawn.append(tag("text", x_name, x=width - 16, y=bottom + 30, class_="tick end"))
    told = "; ".join(_told(row) for row in rows)
    return figure(title, drawn, f"{title}. {told}.", size=(width, bottom + 36))


def _told(row: Range) -> str:
    wide = next((pair for pair in row.intervals if pair), None)
    return f"{row.name}: {row.value:.4f}" + (f", from {wide[0]:.4f} to {wide[1]:.4f}" if wide else "")


def _forest_row(row: Range, across: Scale, y: Number) -> list[Markup]:
    drawn = [tag("text", short(row.name, 60), tag("title", row.name), x=0, y=y - 14, class_="name")]
    for order, pair in enumerate(row.intervals):
        if pair:
            kind = f"range{' thin' if order else ''} {style(row.number)}"
            at = y + 5 * order
            drawn.append(tag("line", x1=across(pair[0]), x2=across(pair[1]), y1=at, y2=at, class_=kind))
    for one in row.single:
        drawn.append(tag("line", x1=across(one), x2=across(one), y1=y - 7, y2=y - 3, class_="seed"))
    return [*drawn, shape(across(row.value), y, row.number, f"{row.name}: {row.value:.4f}")]
