"""What a page is made of, as plain values; the macro of its class's name in templates/blocks.html draws a block."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

Number = int | float
LONGEST = 120


def shorten(text: str, longest: int = LONGEST) -> str:
    """The text, cut where a data set has a name as long as a novel."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


@dataclass(frozen=True, slots=True)
class Opening:
    """The top of a page."""

    title: str
    about: str
    tiles: Sequence[tuple[str, str]] = ()
    verdicts: Sequence[str] = ()
    notices: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page that can be linked to: its title, a paragraph that leads in, and blocks."""

    name: str
    title: str
    blocks: Sequence[Any]
    lead: str = ""

    @property
    def anchor(self) -> str:
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table, which sorts by its value."""

    text: str
    value: Number | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table that the script lets a reader sort; the first cell of a row names it.

    Attributes:
        caption: what it shows.
        head: a name for each column.
        rows: of cells; text is a cell too, and None is a dash.
        numbers_from: the first column of numbers, which stand to the right.
        style: class of the table.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str | None]]
    numbers_from: int = 1
    style: str = "plain"

    @property
    def cells(self) -> list[list[Cell]]:
        return [
            [one if isinstance(one, Cell) else Cell("-" if one is None else one) for one in row] for row in self.rows
        ]


@dataclass(frozen=True, slots=True)
class Charts:
    """Drawings side by side, or wide ones below each other, and further ones that are folded away."""

    drawn: Sequence[Markup]
    folded: Sequence[Markup] = ()
    layout: str = "charts"


@dataclass(frozen=True, slots=True)
class Legend:
    """What belongs to which mark."""

    items: Sequence[tuple[Markup, str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, Any]]
    style: str = "facts"


@dataclass(slots=True)
class Notes:
    """Definitions that tables refer to by number."""

    texts: list[str] = field(default_factory=list)

    def refer(self, name: str, text: str) -> str:
        """The name with a link to its definition, which is the link's tooltip too."""
        if not text:
            return name
        if text not in self.texts:
            self.texts.append(text)
        link = Markup('{0}<sup><a href="#note-{1}" title="{2}" aria-label="definition {1}">{1}</a></sup>')
        return link.format(name, self.texts.index(text) + 1, text)


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph in small print."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """A file's text, folded away or not."""

    name: str
    text: str
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """A plain value for the script, or for whoever wants the numbers; nothing in it can end the element."""

    name: str
    value: Any
