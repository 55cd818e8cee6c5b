"""HTML that cannot be left unescaped: text becomes markup only through `tag`, which escapes it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

VOID = frozenset({"br", "circle", "hr", "image", "img", "input", "line", "meta", "path", "polyline", "rect"})
LONGEST = 120


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Number = int | float

Content = str | Number | None | Iterable[Any]
"""Markup as it is, other text escaped, nothing for None, and all of these in any nesting."""


def tag(name: str, /, *content: Content, **attributes: Any) -> Markup:
    """An element. `class_` is the attribute class, `data_i` data-i; True is a bare attribute, False and None none."""
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = key.rstrip("_").replace("_", "-")
        parts.append(shown if value is True else f'{shown}="{html.escape(str(value))}"')
    opened = " ".join(parts)
    return Markup(f"<{opened}/>" if name in VOID else f"<{opened}>{join(*content)}</{name}>")


def join(*content: Content) -> Markup:
    """Contents one after the other."""
    return Markup("".join(map(_escaped, content)))


def _escaped(content: Content) -> str:
    if content is None:
        return ""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str | int | float):
        return html.escape(str(content))
    return "".join(map(_escaped, content))


def data(name: str, value: Any) -> Markup:
    """A plain value for the script to read. Nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def short(text: str, longest: int = LONGEST) -> str:
    """The text, cut where a data set has a name as long as a novel."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page that can be linked to."""

    name: str
    title: str
    markup: Markup


def section(name: str, title: str, *content: Content, lead: Content = None) -> Section:
    """A part of the page: its title, a paragraph that leads in, and the content."""
    anchor = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    paragraph = tag("p", lead, class_="lead") if lead else None
    return Section(anchor, title, tag("section", tag("h2", title), paragraph, *content, id=anchor))


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table, which sorts by its value."""

    shown: str
    value: Number | None = None


def table(
    head: Iterable[Content],
    body: Iterable[Iterable[Any]],
    *,
    caption: str,
    numbers_from: int = 1,
    class_: str | None = None,
) -> Markup:
    """A table that the script lets a reader sort; the first cell of a row names it.

    Args:
        head: a name for each column.
        body: the rows, of contents and of `Cell`s.
        caption: what it shows.
        numbers_from: the first column of numbers, which stand to the right.
        class_: of the table, for its style.
    """
    heads = [tag("th", one, scope="col", class_=_kind(at >= numbers_from)) for at, one in enumerate(head)]
    rows = [tag("tr", [_cell(one, at, at >= numbers_from) for at, one in enumerate(row)]) for row in body]
    inner = tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", rows), class_=class_)
    # A wide table scrolls by itself; a keyboard can reach it.
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _kind(is_number: bool) -> str | None:
    return "number" if is_number else None


def _cell(content: Content | Cell, at: int, is_number: bool) -> Markup:
    value = content.value if isinstance(content, Cell) else None
    shown = content.shown if isinstance(content, Cell) else content
    if at == 0:
        return tag("th", shown, scope="row")
    return tag("td", "-" if shown is None else shown, class_=_kind(is_number), data_value=value)
