"""The same queries, and what each of several entries found for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from metriclab.report.blocks import Section, shorten
from metriclab.report.embedded import Embedded
from metriclab.report.gallery import Answers, EntryAnswer, Pictures, choose_differing
from metriclab.report.labels import metric_label

MOST = 12
"""Entries that a page can show."""


@dataclass(frozen=True, slots=True)
class Chooser:
    """Boxes to choose the entries by: a block."""

    names: Sequence[str]
    at_first: int = 6


@dataclass(frozen=True, slots=True)
class EmbeddedEntry:
    """One run of an entry, embedded once more.

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
    entries: Sequence[EmbeddedEntry], metric: str, pictures: Pictures, *, left_out: int
) -> Section | None:
    """Queries on which entries differ most, and those that are hard or easy for all.

    Args:
        entries: best first.
        metric: the scores are of.
        pictures: of queries and gallery.
        left_out: how many entries there are besides.
    """

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
        "✓ is of the query's class, ✗ of another one."
    )
    lead += f" The page has room for {len(entries)} entries; the {left_out} lowest are left out." if left_out else ""
    chooser = [Chooser([shorten(one.name, 40) for one in entries])] if len(entries) > 2 else []
    return Section("side-by-side", "Side by side", [*chooser, *groups], lead)
