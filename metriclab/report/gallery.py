"""Queries with what was found for them, by one run or by several side by side, and classes that are confused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from markupsafe import Markup

from metriclab.report.blocks import Cell, Section, Table, shorten
from metriclab.report.embedded import Data, Embedded, count_confusions
from metriclab.report.labels import format_number, metric_label
from metriclab.report.thumbnails import Sizes, encode_image, open_images

OF_A_KIND = 4
MOST_CONFUSED = 10
_IMAGE = Markup('<img src="{}" alt="{}" title="{}">')
_CLASSES = Markup('{}<span class="quiet"> and </span>{}')
_PAIR = Markup('<span class="pair">{}{}</span>')


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A gallery image that was found for a query; right and wrong are told by frame, sign and words."""

    image: Markup
    right: bool
    similarity: float


@dataclass(frozen=True, slots=True)
class EntryAnswer:
    """What one entry found for a query, nearest first; the only entry of a page has no name."""

    neighbours: Sequence[Neighbour]
    name: str = ""
    under: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A query with its class, what is to be said of it, and what entries found for it."""

    image: Markup
    name: str
    under: str
    entries: Sequence[EntryAnswer]


@dataclass(frozen=True, slots=True)
class Answers:
    """Queries of one kind: a block."""

    title: str
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images of the two sides, and the answers that they make up."""

    data: Data
    sizes: Sizes

    def query(self, row: int, alt: str) -> Markup:
        """The image of a query; `alt` may name the {class}."""
        return self._image(row, alt, gallery=False)

    def gallery(self, row: int, alt: str) -> Markup:
        """The image of a gallery row; `alt` may name the {class}."""
        return self._image(row, alt, gallery=True)

    def _image(self, row: int, alt: str, *, gallery: bool) -> Markup:
        split = self.data.gallery if gallery else self.data.queries
        (image,) = open_images(split, [row])
        said = alt.replace("{class}", self.data.name(int(split.labels[row])))
        return _IMAGE.format(encode_image(image, self.sizes), said, shorten(str(split.names[row])))

    def answer(self, row: int, under: str, entries: Sequence[EntryAnswer]) -> Answer:
        """A query with what entries found for it."""
        name = shorten(self.data.name(int(self.data.queries.labels[row])), 28)
        return Answer(self.query(row, "query: {class}"), name, under, entries)

    def neighbours(self, embedded: Embedded, query: int) -> list[Neighbour]:
        """What was found for a query, nearest first."""
        neighbours = []
        for rank, row in enumerate(embedded.near[query].tolist()):
            if row >= 0:
                right, similarity = bool(embedded.right[query, rank]), float(embedded.similarity[query, rank])
                said = f"{rank + 1}: {{class}}, {'right' if right else 'wrong'}, similarity {similarity:.3f}"
                neighbours.append(Neighbour(self.gallery(row, said), right, similarity))
        return neighbours


_SIGNS = "✓ is of the query's class, ✗ of another one."


def _left_out(embedded: Embedded) -> str:
    return " Images of the query's own class and group are left out." if embedded.without_group else ""


def gallery_section(
    embedded: Embedded, scores: Float[np.ndarray, "q"], metric: str, pictures: Pictures
) -> Section | None:
    """The best, median and worst queries with what was found for them."""
    groups = [
        Answers(
            title,
            [
                pictures.answer(
                    row,
                    f"{metric_label(metric)} {scores[row]:.3f}",
                    [EntryAnswer(pictures.neighbours(embedded, row))],
                )
                for row in rows
            ],
        )
        for title, rows in choose_queries(scores, embedded.queries.labels.cpu().numpy()).items()
    ]
    if not groups:
        return None
    lead = (
        f"Queries by their {metric_label(metric)}, each with its {embedded.near.shape[1]} nearest images and their "
        f"cosine similarity. {_SIGNS}{_left_out(embedded)}"
    )
    return Section("gallery", "Retrieval, query by query", groups, lead)


def choose_queries(scores: Float[np.ndarray, "q"], labels: Int64[np.ndarray, "q"]) -> dict[str, list[int]]:
    """Rows of the best, the median and the worst queries, each of another class as far as there are enough."""
    order = np.flatnonzero(np.isfinite(scores))
    order = order[np.argsort(scores[order], kind="stable")]
    middle = np.argsort(np.abs(np.arange(len(order)) - (len(order) - 1) / 2), kind="stable")
    groups = _choose({"Best": order[::-1], "Worst": order, "Median": order[middle]}, labels, OF_A_KIND)
    return {title: groups[title] for title in ("Best", "Median", "Worst") if title in groups}


def choose_differing(scores: Iterable[Float[np.ndarray, "q"]], labels: Int64[np.ndarray, "q"]) -> dict[str, list[int]]:
    """Queries to look at side by side: where entries differ most, where all do well, and where all fail."""
    every = np.stack(list(scores))
    counted = np.flatnonzero(np.isfinite(every).all(0))
    spread, mean = np.ptp(every[:, counted], axis=0), every[:, counted].mean(0)
    kinds = {"Where they differ most": -spread, "Hard for all": mean, "Easy for all": -mean}
    orders = {title: counted[np.argsort(values, kind="stable")] for title, values in kinds.items()}
    return _choose(orders, labels, OF_A_KIND - 1)


def _choose(
    orders: Mapping[str, Int64[np.ndarray, "_"]], labels: Int64[np.ndarray, "q"], most: int
) -> dict[str, list[int]]:
    """The first rows of each order that no other took, of different classes first."""
    taken: set[int] = set()
    groups = {}
    for title, order in orders.items():
        free = [row for row in order.tolist() if row not in taken]
        by_class: dict[int, int] = {}
        for row in free:
            by_class.setdefault(int(labels[row]), row)
            if len(by_class) == OF_A_KIND:
                break
        first = list(by_class.values())
        others = [row for row in free[: 2 * OF_A_KIND] if row not in first]
        groups[title] = [*first, *others][:most]
        taken.update(groups[title])
    return {title: rows for title, rows in groups.items() if rows}


def confusion_section(embedded: Embedded, pictures: Pictures) -> Section | None:
    """The pairs of classes that are most often taken for each other."""
    rows = []
    for pair in count_confusions(embedded, MOST_CONFUSED):
        query = pictures.query(pair.query, "a query: {class}")
        other = pictures.gallery(pair.gallery, "its nearest image: {class}")
        share = pair.wrong / pair.queries
        rows.append(
            [
                Cell(_CLASSES.format(*(shorten(pictures.data.name(one), 40) for one in pair.labels))),
                Cell(f"{pair.wrong:,}", pair.wrong),
                Cell(f"{share:.1%}", share),
                format_number(pair.similarity),
                Cell(_PAIR.format(query, other)),
            ]
        )
    if not rows:
        return None
    head = ["classes", "confused queries", "of their queries", "highest similarity", "the nearest such pair"]
    lead = f"A query is confused where its nearest image is of the other class.{_left_out(embedded)}"
    table = Table("Most confused pairs of classes", head, rows)
    return Section("confusions", "Most confused classes", [table], lead)


MOST = 12
"""Entries that a page can show."""


@dataclass(frozen=True, slots=True)
class Chooser:
    """Boxes to choose the entries by: a block."""

    names: Sequence[str]
    at_first: int = 6


@dataclass(frozen=True, slots=True)
class EmbeddedEntry:
    """One run of an entry, embedded once more."""

    name: str
    seed: int
    embedded: Embedded
    scores: Float[np.ndarray, "q"]


def side_by_side_section(
    entries: Sequence[EmbeddedEntry], metric: str, pictures: Pictures, *, left_out: int
) -> Section | None:
    """Queries on which entries, best first, differ most, and those that are hard or easy for all."""

    def answer(one: EmbeddedEntry, row: int) -> EntryAnswer:
        under = f"seed {one.seed} · {one.scores[row]:.3f}"
        return EntryAnswer(pictures.neighbours(one.embedded, row), shorten(one.name, 40), under)

    groups = []
    for title, rows in choose_differing([one.scores for one in entries], pictures.data.queries.labels).items():
        spreads = [float(np.ptp([one.scores[row] for one in entries])) for row in rows]
        answers = [
            pictures.answer(row, f"differ by {spread:.3f}", [answer(one, row) for one in entries])
            for row, spread in zip(rows, spreads, strict=True)
        ]
        groups.append(Answers(title, answers))
    if not groups:
        return None
    seeds = sorted({one.seed for one in entries})
    runs = f"The runs of seed {seeds[0]}" if len(seeds) == 1 else "One run of each entry, that of its lowest seed,"
    lead = (
        f"{runs} on the same queries: the nearest images that each found, and its {metric_label(metric)}. "
        f"{_SIGNS}{_left_out(entries[0].embedded)}"
    )
    lead += f" The page has room for {len(entries)} entries; the {left_out} lowest are left out." if left_out else ""
    chooser = [Chooser([shorten(one.name, 40) for one in entries])] if len(entries) > 2 else []
    return Section("side-by-side", "Side by side", [*chooser, *groups], lead)
