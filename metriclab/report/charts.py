"""Small charts as SVG. Colours come from the page's style, so that they follow light and dark.

Markup is put together by `Markup.format` alone, which escapes what it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from metriclab.report.blocks import Legend, Number, shorten
from metriclab.report.labels import format_compact

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 12, 30
COLOURS = 8
MOST_POINTS = 300
FEW_POINTS = 8
_APART = 28  # labels of an axis, at least

_FIGURE = Markup(
    "<figure><figcaption>{title}</figcaption>"
    '<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{spoken}" class="chart">{drawn}</svg></figure>'
)
_LINE = Markup('<line x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}" class="{}"/>')
_POLYLINE = Markup('<polyline points="{}" class="{}"/>')
_TEXT = Markup('<text x="{:g}" y="{:g}" class="{}">{}</text>')
_CIRCLE = Markup('<circle cx="{:g}" cy="{:g}" r="{:g}" class="dot {}"/>')
_POLYGON = Markup('<polygon points="{}" class="dot {}"/>')
_CELL = Markup('<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}" fill-opacity="{:.2f}" class="cell"/>')
_CORNERS = (
    (),  # a circle
    ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    ((0, -1.2), (1.2, 1), (-1.2, 1)),
    ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
)
_KEY = Markup('<svg viewBox="0 0 28 16" aria-hidden="true">{}{}</svg>')


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
    """A line of a chart; its colour and dashes go by its number among the series of the page.

    A faint one is drawn behind the others, thin and without words: a single run where another line is the mean.
    """

    name: str
    xs: Sequence[Number]
    ys: Sequence[Number]
    number: int = 0
    faint: bool = False

    def thinned(self) -> tuple[list[Number], list[Number]]:
        """Points no closer than the eye can tell: means of equal stretches."""
        stretch = math.ceil(len(self.xs) / MOST_POINTS)
        parts = range(0, len(self.xs), stretch)
        xs, ys = (
            [math.fsum(v[at : at + stretch]) / len(v[at : at + stretch]) for at in parts] for v in (self.xs, self.ys)
        )
        return xs, ys


def draw_lines(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str,
    mark: Number | None = None,
    within: Sequence[Number] = (),
) -> Markup:
    """Lines over a common x, an upright one at `mark`; the scale of y holds the values in `within`, too."""
    thin = [one.thinned() for one in series]
    across = Scale.around([x for xs, _ in thin for x in xs], LEFT, WIDTH - RIGHT, share=0)
    up = Scale.around([*within, *(y for _, ys in thin for y in ys)], HEIGHT - BOTTOM, TOP)
    drawn = _draw_axes(across, up, [(x, _tick(x)) for x in across.ticks()], x_name)
    if mark is not None and across.low <= mark <= across.high:
        drawn.append(_LINE.format(across(mark), TOP, across(mark), HEIGHT - BOTTOM, "mark"))
    drawn += [part for one, (xs, ys) in zip(series, thin, strict=True) for part in _draw_line(one, xs, ys, across, up)]
    spoken = "; ".join(f"{one.name}: {one.ys[0]:.4g} to {one.ys[-1]:.4g}" for one in series if not one.faint)
    return _draw_figure(title, drawn, f"{title} over {x_name}. {spoken}.")


def _draw_line(one: Series, xs: Sequence[Number], ys: Sequence[Number], across: Scale, up: Scale) -> list[Markup]:
    places = [(across(x), up(y)) for x, y in zip(xs, ys, strict=True)]
    if len(places) == 1:
        return [draw_mark(*places[0], one.number, one.name, 2 if one.faint else 3.5)]
    points = " ".join(f"{x:g},{y:g}" for x, y in places)
    line = _POLYLINE.format(points, f"line {style(one.number)}{' faint' if one.faint else ''}")
    # Few points are marked, so that lines can be told apart without colours.
    marked = len(places) <= FEW_POINTS and not one.faint
    return [line, *(draw_mark(x, y, one.number, one.name, 2.6) for x, y in places if marked)]


def _draw_axes(across: Scale, up: Scale, ticks: Sequence[tuple[Number, str]], x_name: str) -> list[Markup]:
    """Faint lines with their numbers; names of ticks across that would touch are left out."""
    left, right, bottom = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    drawn = [_LINE.format(left, up(y), right, up(y), "grid") for y in up.ticks()]
    drawn += [_TEXT.format(left - 6, up(y) + 3.5, "tick end", _tick(y)) for y in up.ticks()]
    last = -math.inf
    for x, text in sorted(ticks):
        if across(x) - last >= _APART:
            drawn.append(_TEXT.format(last := across(x), bottom + 14, "tick middle", text))
    return [*drawn, _TEXT.format(right, bottom + 27, "tick end", x_name)]


def _tick(value: Number) -> str:
    size = abs(value)
    return format_compact(value).replace(" ", "") if size >= 1e4 else f"{value:.3g}" if size < 1000 else f"{value:,.0f}"


def _draw_figure(
    title: str, drawn: Sequence[Markup], spoken: str, *, width: Number = WIDTH, height: Number = HEIGHT
) -> Markup:
    """A drawing under its title, with words in its place for those who cannot see it."""
    return _FIGURE.format(title=title, drawn=Markup("").join(drawn), spoken=spoken, width=width, height=height)


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a scatter, its name, and the single results whose mean it is."""

    name: str
    x: Number
    y: Number
    number: int
    singles: Sequence[Number] = ()


def draw_scatter(
    title: str,
    points: Sequence[Point],
    *,
    x_name: str,
    y_name: str,
    ticks: Sequence[tuple[Number, str]] = (),
    joined: bool = False,
) -> Markup:
    """Points, each of its own colour and shape, by x in `ticks` where numbers would not do, `joined` by a line."""
    across = Scale.around([point.x for point in points], LEFT, WIDTH - RIGHT, share=0.08)
    ys = [y for point in points for y in (point.y, *point.singles)]
    up = Scale.around(ys, HEIGHT - BOTTOM, TOP, share=0.08)
    drawn = _draw_axes(across, up, ticks or [(x, _tick(x)) for x in across.ticks()], x_name)
    if joined:
        path = " ".join(f"{across(one.x):g},{up(one.y):g}" for one in sorted(points, key=lambda one: one.x))
        drawn.append(_POLYLINE.format(path, "line trend"))
    for point in points:
        drawn += [_LINE.format(across(point.x) - 7, up(y), across(point.x) - 3, up(y), "seed") for y in point.singles]
        drawn.append(draw_mark(across(point.x), up(point.y), point.number, point.name))
    spoken = "; ".join(f"{point.name}: {y_name} {point.y:.4g} at {format_compact(point.x)}" for point in points)
    return _draw_figure(title, drawn, f"{title}. {spoken}.")


def style(number: int) -> str:
    """The class of a series."""
    return f"s{number % COLOURS}{' dashed' if number % (2 * COLOURS) >= COLOURS else ''}"


def draw_mark(x: Number, y: Number, number: int, name: str, size: Number = 4.5) -> Markup:
    """The mark of a series: a circle, square, triangle or diamond."""
    corners = " ".join(f"{x + size * right:g},{y + size * down:g}" for right, down in _CORNERS[number % len(_CORNERS)])
    mark = _POLYGON.format(corners, style(number)) if corners else _CIRCLE.format(x, y, size, style(number))
    return Markup("<g><title>{}</title>{}</g>").format(shorten(name), mark)


def make_legend(names: Sequence[str]) -> Legend:
    """What belongs to which series, by the mark and the line of each."""
    lines = [_LINE.format(0, 8, 28, 8, f"line {style(number)}") for number in range(len(names))]
    marks = [draw_mark(14, 8, number, name, 4) for number, name in enumerate(names)]
    return Legend([(_KEY.format(*key), shorten(name, 60)) for *key, name in zip(lines, marks, names, strict=True)])


def draw_grid(title: str, values: Mapping[tuple[str, str], Number]) -> Markup:
    """A heat map of values by column and row, in the order in which these come; the darker, the larger."""
    columns, rows = (list(dict.fromkeys(place[axis] for place in values)) for axis in (0, 1))
    left, wide, high = 110, 84, 40
    low, span = min(values.values()), max(values.values()) - min(values.values()) or 1
    drawn = [_TEXT.format(left + wide * (at + 0.5), TOP, "name middle", name) for at, name in enumerate(columns)]
    drawn += [_TEXT.format(left - 8, TOP + high * at + 34, "name end", name) for at, name in enumerate(rows)]
    for (column, row), value in values.items():
        x, y = left + wide * columns.index(column), TOP + 10 + high * rows.index(row)
        shade = 0.06 + 0.5 * (value - low) / span
        drawn.append(_CELL.format(x, y, wide - 2, high - 2, shade))
        drawn.append(_TEXT.format(x + wide / 2, y + 24, "name middle", f"{value:.4f}"))
    spoken = "; ".join(f"{column}, {row}: {value:.4f}" for (column, row), value in values.items())
    size = {"width": left + wide * len(columns), "height": TOP + 14 + high * len(rows)}
    return _draw_figure(title, drawn, f"{title}. {spoken}.", **size)


@dataclass(frozen=True, slots=True)
class Range:
    """A row of a forest plot: a value, the intervals around it (the first one thick), and single results as ticks."""

    name: str
    value: Number
    intervals: Sequence[tuple[Number, Number] | None] = ()
    singles: Sequence[Number] = ()
    number: int = 0

    def __str__(self) -> str:
        widest = next((f", from {low:.4f} to {high:.4f}" for low, high in filter(None, self.intervals)), "")
        return f"{self.name}: {self.value:.4f}{widest}"


def draw_forest(title: str, rows: Sequence[Range], *, x_name: str, zero: bool = False) -> Markup:
    """Values with their intervals, one under the other; 0 is in the picture, marked by a line, where `zero` says so."""
    # Names stand above the intervals, so that a phone shows the whole drawing at a size that can be read.
    width, left, height = 480, 14, 42
    bottom = TOP + height * len(rows)
    values = [end for row in rows for pair in row.intervals if pair for end in pair]
    values += [value for row in rows for value in (row.value, *row.singles)] + [0.0] * zero
    across = Scale.around(values, left, width - 16)
    drawn = [_LINE.format(across(x), TOP, across(x), bottom, "grid") for x in across.ticks(5)]
    drawn += [_TEXT.format(across(x), bottom + 16, "tick middle", _tick(x)) for x in across.ticks(5)]
    if zero:
        drawn.append(_LINE.format(across(0), TOP, across(0), bottom, "mark"))
    for at, row in enumerate(rows):
        drawn += _draw_range(row, across, TOP + height * (at + 0.7))
    drawn.append(_TEXT.format(width - 16, bottom + 30, "tick end", x_name))
    spoken = "; ".join(map(str, rows))
    return _draw_figure(title, drawn, f"{title}. {spoken}.", width=width, height=bottom + 36)


def _draw_range(row: Range, across: Scale, y: Number) -> list[Markup]:
    name = Markup("{}<title>{}</title>").format(shorten(row.name, 60), row.name)
    drawn = [_TEXT.format(0, y - 14, "name", name)]
    for order, pair in enumerate(row.intervals):
        if pair:
            kind = f"range{' thin' if order else ''} {style(row.number)}"
            drawn.append(_LINE.format(across(pair[0]), y + 5 * order, across(pair[1]), y + 5 * order, kind))
    drawn += [_LINE.format(across(one), y - 7, across(one), y - 3, "seed") for one in row.singles]
    return [*drawn, draw_mark(across(row.value), y, row.number, f"{row.name}: {row.value:.4f}")]
