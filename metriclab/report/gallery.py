"""Queries with what was found for them, and classes that are taken for each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from metriclab.report.embedded import Data, Embedded, confusions
from metriclab.report.html import Cell, Markup, Section, section, short, table, tag
from metriclab.report.labels import metric_label, number
from metriclab.report.thumbnails import Sizes, data_uri, open_images

OF_A_KIND = 4
MOST_CONFUSED = 10


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images of the two sides, as elements."""

    data: Data
    sizes: Sizes

    def queries(self, rows: Sequence[int], alt: str) -> list[Markup]:
        """Images of queries; `alt` may name the {class}."""
        return list(self._images(rows, alt, gallery=False))

    def gallery(self, rows: Sequence[int], alts: Sequence[str]) -> list[Markup]:
        """Images of gallery rows, each with its own text."""
        return [image for row, alt in zip(rows, alts, strict=True) for image in self._images([row], alt, gallery=True)]

    def _images(self, rows: Sequence[int], alt: str, *, gallery: bool) -> Iterator[Markup]:
        split = self.data.gallery if gallery else self.data.queries
        for row, image in zip(rows, open_images(split, rows), strict=True):
            name = self.data.name(int(split.labels[row]))
            title = short(str(split.names[row]))
            yield tag("img", src=data_uri(image, self.sizes), alt=alt.replace("{class}", name), title=title)


def found_row(embedded: Embedded, query: int, pictures: Pictures) -> Markup:
    """What was found for a query, nearest first; right and wrong by frame, sign and words."""
    items = []
    for rank, row in enumerate(embedded.near[query].tolist()):
        if row < 0:
            break
        right, similarity = bool(embedded.right[query, rank]), float(embedded.similarity[query, rank])
        name = pictures.data.name(int(embedded.labels[query, rank]))
        said = f"{rank + 1}: {name}, {'right' if right else 'wrong'}, similarity {similarity:.3f}"
        (image,) = pictures.gallery([row], [said])
        sign = tag("span", "✓" if right else "✗", class_="sign", aria_hidden="true")
        items.append(
            tag(
                "li",
                image,
                sign,
                tag("span", f"{similarity:.2f}", class_="under", aria_hidden="true"),
                class_="right" if right else "wrong",
            )
        )
    return tag("ol", items, class_="found")


def query_figure(query: int, pictures: Pictures, under: str) -> Markup:
    """A query with its class and what is to be said of it."""
    (image,) = pictures.queries([query], "query: {class}")
    name = pictures.data.name(int(pictures.data.queries.labels[query]))
    caption = tag("figcaption", tag("b", short(name, 28)), tag("span", under))
    return tag("figure", image, caption, class_="query")


def gallery_section(
    embedded: Embedded, scores: Float[np.ndarray, "q"], metric: str, pictures: Pictures
) -> Section | None:
    """The best, median and worst queries with what was found for them."""
    labels = embedded.queries.labels.cpu().numpy()
    groups = []
    for title, rows in chosen_queries(scores, labels).items():
        shown = [
            tag(
                "div",
                query_figure(row, pictures, f"{metric_label(metric)} {scores[row]:.3f}"),
                found_row(embedded, row, pictures),
                class_="answer",
            )
            for row in rows
        ]
        groups.append(tag("div", tag("h3", title), *shown, class_="group"))
    if not groups:
        return None
    lead = (
        f"Queries by their {metric_label(metric)}, each with its {embedded.near.shape[1]} nearest images and their "
        "cosine similarity. ✓ is of the query's class, ✗ of another one."
    )
    return section("gallery", "Retrieval, query by query", *groups, lead=lead)


def chosen_queries(scores: Float[np.ndarray, "q"], labels: Int64[np.ndarray, "q"]) -> dict[str, list[int]]:
    """Rows of the best, the median and the worst queries, each of another class as far as there are enough."""
    order = np.flatnonzero(np.isfinite(scores))
    order = order[np.argsort(scores[order], kind="stable")]
    if not len(order):
        return {}
    middle = np.argsort(np.abs(np.arange(len(order)) - (len(order) - 1) / 2), kind="stable")
    taken: set[int] = set()
    groups = {}
    for title, rows in (("Best", order[::-1]), ("Worst", order), ("Median", order[middle])):
        groups[title] = _of_different_classes(rows.tolist(), labels, taken)
        taken.update(groups[title])
    return {title: groups[title] for title in ("Best", "Median", "Worst") if groups[title]}


def _of_different_classes(rows: Sequence[int], labels: Int64[np.ndarray, "q"], taken: set[int]) -> list[int]:
    free = [row for row in rows if row not in taken]
    by_class: dict[int, int] = {}
    for row in free:
        by_class.setdefault(int(labels[row]), row)
        if len(by_class) == OF_A_KIND:
            break
    first = list(by_class.values())
    others = [row for row in free[: 2 * OF_A_KIND] if row not in first]
    return [*first, *others][:OF_A_KIND]


def confusion_section(embedded: Embedded, pictures: Pictures) -> Section | None:
    """The pairs of classes that are most often taken for each other."""
    found = confusions(embedded, MOST_CONFUSED)
    if not found:
        return None
    rows = []
    for pair in found:
        (query,) = pictures.queries([pair.query], "a query: {class}")
        (other,) = pictures.gallery([pair.gallery], ["its nearest image: {class}"])
        one, two = (pictures.data.name(label) for label in pair.labels)
        share = pair.wrong / pair.queries
        rows.append(
            [
                tag("span", short(one, 40), tag("span", " and ", class_="quiet"), short(two, 40)),
                Cell(f"{pair.wrong:,}", pair.wrong),
                Cell(f"{share:.1%}", share),
                number(pair.similarity),
                tag("span", query, other, class_="pair"),
            ]
        )
    head = ["classes", "confused queries", "of their queries", "highest similarity", "the nearest such pair"]
    lead = "A query is confused where its nearest image is of the other class."
    shown = table(head, rows, caption="Most confused pairs of classes")
    return section("confusions", "Most confused classes", shown, lead=lead)


def differing_queries(
    scores: Mapping[str, Float[np.ndarray, "q"]], labels: Int64[np.ndarray, "q"]
) -> dict[str, list[int]]:
    """Queries to look at side by side: where entries differ most, where all do well, and where all fail."""
    every = np.stack(list(scores.values()))
    counted = np.isfinite(every).all(0)
    spread, mean = np.where(counted, np.ptp(every, axis=0), np.nan), np.where(counted, every.mean(0), np.nan)
    taken: set[int] = set()
    groups = {}
    for title, values in (("Where they differ most", -spread), ("Hard for all", mean), ("Easy for all", -mean)):
        order = np.argsort(values, kind="stable")
        groups[title] = _of_different_classes(order[: counted.sum()].tolist(), labels, taken)[:3]
        taken.update(groups[title])
    return {title: rows for title, rows in groups.items() if rows}
