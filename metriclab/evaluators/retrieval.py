"""Retrieval: how well the nearest gallery rows share the label of the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.evaluators._ranking import EXCLUDED, equal_range, ranking_keys, sort_rows
from metriclab.evaluators._ties import RankedMatches, Tables
from metriclab.registry import register

_RULES = (
    "averaged over the queries of known label (>= 0) with a match (a gallery row of equal label); gallery rows of "
    "unknown label are no match; ranked by cosine similarity rounded to a multiple of 2^-20, with the expected value "
    "over random order of ties; where the queries are the gallery (leave-one-out), rows of the query's own item are "
    "left out, elsewhere none is (retrieval/1)."
)
_AT_DEPTH = {
    "r_at_{}": "Recall at {}: share of queries with a match among the {} nearest gallery rows, ",
    "p_at_{}": "Precision at {}: number of matches among the {} nearest gallery rows, divided by {}, ",
}
_DEFINITIONS = {
    "r_precision": "R-precision: share of matches among the R nearest gallery rows, R being the query's number of "
    "matches, ",
    "map_at_r": "MAP@R: precision at each match among the R nearest gallery rows, summed and divided by R, the "
    "query's number of matches, ",
    "map": "Mean average precision: mean of the precision at each match in the whole ranking, ",
    "mrr": "Mean reciprocal rank: one divided by the rank of the best match, ",
}
_LONE = "Number of queries of known label (>= 0) without a match, which no other metric counts (retrieval/1)."


@register("evaluator", "retrieval")
class Retrieval:
    """Recall, precision, R-precision, MAP@R, mean average precision and reciprocal rank, exact for any size.

    Ties count by their expected value, so a constant model scores chance. Memory beyond the rows stays under about
    300 MB, whatever the number of queries.

    Paper: K. Musgrave, S. Belongie, S.-N. Lim. A Metric Learning Reality Check. ECCV 2020 (MAP@R).

    Args:
        k: depths of recall and precision; at depth 1 both are the same.
    """

    def __init__(self, *, k: tuple[Annotated[int, Gt(0)], ...] = (1, 5, 10)) -> None:
        per_depth = {name.format(at): text.format(at, at, at) for name, text in _AT_DEPTH.items() for at in k}
        self.k = k
        self.definitions = {name: text + _RULES for name, text in (per_depth | _DEFINITIONS).items()}

    @torch.no_grad()
    def __call__(self, queries: Rows, gallery: Rows, /) -> dict[str, Score]:
        """Every metric by name; `per_query` is NaN for a query of unknown label or without a match.

        Args:
            queries: rows to look for; those with a negative label are passed over.
            gallery: rows to look among; the same object as `queries` for leave-one-out.

        Raises:
            DivergedError: where an embedding is not finite.
        """
        values = {name: torch.full((len(queries),), torch.nan, dtype=torch.float64) for name in self.definitions}
        lone = torch.where(queries.labels < 0, torch.nan, 1.0).double().cpu()
        tables = Tables.up_to(len(gallery), queries.z.device)
        alike = Alike.of(queries.labels, gallery.labels)
        for indices, keys in ranking_keys(queries, gallery, alike.queries()):
            matches = sort_rows(alike.keys(indices, keys))
            ranked = RankedMatches.find(sort_rows(keys), matches, tables)
            found, place = ranked.relevant > 0, indices.cpu()
            lone[place] = (~found).double().cpu()
            for name, value in self._measure(ranked).items():
                values[name][place] = value.where(found, torch.nan).cpu()
        scores = {name: Score(float(value.nanmean()), value, self.definitions[name]) for name, value in values.items()}
        return {**scores, "lone_queries": Score(float(lone.nansum()), lone, _LONE)}

    def _measure(self, ranked: RankedMatches) -> dict[str, Float64[Tensor, "b"]]:
        relevant = ranked.relevant
        everything = torch.full_like(relevant, ranked.length)
        return {
            **{f"r_at_{k}": ranked.any_hit(k) for k in self.k},
            **{f"p_at_{k}": ranked.hits(torch.full_like(relevant, k)) / k for k in self.k},
            "r_precision": ranked.hits(relevant) / relevant,
            "map_at_r": ranked.summed_precision(relevant) / relevant,
            "map": ranked.summed_precision(everything) / relevant,
            "mrr": ranked.reciprocal_rank(),
        }


@dataclass(frozen=True, slots=True)
class Alike:
    """Which gallery rows have the label of each query, the query itself included.

    Attributes:
        labels: of the queries.
        columns: gallery rows ordered by label.
        begin, count: where in `columns` those of each query are.
    """

    labels: Int64[Tensor, "q"]
    columns: Int64[Tensor, "n"]
    begin: Int64[Tensor, "q"]
    count: Int64[Tensor, "q"]

    @classmethod
    def of(cls, queries: Int64[Tensor, "q"], gallery: Int64[Tensor, "n"]) -> Alike:
        """From the labels of both sides."""
        ordered, columns = gallery.sort()
        return cls(queries, columns, *equal_range(queries, ordered))

    def queries(self) -> Int64[Tensor, "_"]:
        """Queries of known label with a row alike, by how many there are: a tile is padded to its last query's."""
        order = self.count.argsort()
        return order[((self.labels >= 0) & (self.count > 0))[order]]

    def keys(self, queries: Int64[Tensor, "b"], keys: Int32[Tensor, "b n"]) -> Int32[Tensor, "b _m"]:
        """The keys of the rows alike, `EXCLUDED` where a query has fewer than the others."""
        count = self.count[queries, None]
        within = torch.arange(int(count.max()), device=count.device)
        place = self.begin[queries, None] + within.minimum(count - 1)
        return keys.gather(1, self.columns[place]).masked_fill_(within >= count, EXCLUDED)
