"""The same queries, and what each of several entries found for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from metriclab.report.embedded import Embedded
from metriclab.report.gallery import Pictures, differing_queries, found_row, query_figure
from metriclab.report.html import Markup, Section, section, short, tag
from metriclab.report.labels import metric_label

MOST = 12
"""Entries that a page can show."""

AT_FIRST = 6
"""Entries that are shown until the reader chooses."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one run of an entry found.

    Attributes:
        name: of the entry.
        seed: of the run.
        embedded: the queries with their nearest images.
        scores: of each query in the main metric.
    """

    name: str
    seed: int
    embedded: Embedded
    scores: Float[np.ndarray, "q"]


def side_by_side_section(
    entries: Sequence[Answers], metric: str, pictures: Pictures, *, left_out: int
) -> Section | None:
    """Queries on which entries differ most, and those that are hard or easy for all.

    Args:
        entries: best first.
        metric: the scores are of.
        pictures: of queries and gallery.
        left_out: how many entries there are besides.
    """
    scores = {one.name: one.scores for one in entries}
    groups = [
        tag("div", tag("h3", title), [_query(row, entries, pictures) for row in rows], class_="group")
        for title, rows in differing_queries(scores, pictures.data.queries.labels).items()
    ]
    if not groups:
        return None
    seeds = sorted({one.seed for one in entries})
    runs = f"The runs of seed {seeds[0]}" if len(seeds) == 1 else "One run of each entry, that of its lowest seed,"
    lead = (
        f"{runs} on the same queries: the nearest images that each found, and its {metric_label(metric)}. "
        "✓ is of the query's class, ✗ of another one."
    )
    lead += f" The page has room for {len(entries)} entries; the {left_out} lowest are left out." if left_out else ""
    return section("side-by-side", "Side by side", _chooser(entries), *groups, lead=lead)


def _chooser(entries: Sequence[Answers]) -> Markup | None:
    """Boxes to choose the entries by. Hidden until the script makes them work; without it, all entries are shown."""
    if len(entries) < 3:
        return None
    boxes = [
        tag("label", tag("input", type="checkbox", value=at, checked=at < AT_FIRST), short(one.name, 40))
        for at, one in enumerate(entries)
    ]
    return tag("fieldset", tag("legend", "Entries shown"), boxes, class_="chooser", hidden=True)


def _query(row: int, entries: Sequence[Answers], pictures: Pictures) -> Markup:
    answers = [
        tag(
            "div",
            tag("p", short(one.name, 40), tag("span", f"seed {one.seed} · {one.scores[row]:.3f}")),
            found_row(one.embedded, row, pictures),
            class_="entry",
            data_entry=at,
        )
        for at, one in enumerate(entries)
    ]
    spread = float(np.ptp([one.scores[row] for one in entries]))
    return tag("div", query_figure(row, pictures, f"differ by {spread:.3f}"), *answers, class_="answer")
