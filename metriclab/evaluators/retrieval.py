"""Retrieval: how well the nearest gallery rows share the label of the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from jaxtyping import Float64
from torch import Tensor

from metriclab.core.progress import ProgressGenerator
from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.evaluators.call import call_evaluator
from metriclab.ranking.candidates import LabelIndex, groups_as_items
from metriclab.ranking.matches import measured_matches
from metriclab.ranking.ties import RankedMatches
from metriclab.registry import register

_RULES = (
    "averaged over the queries of known label (>= 0) with a match (a gallery row of equal label); gallery rows of "
    "unknown label are no match; ranked by cosine similarity rounded to a multiple of 2^-20, with the expected value "
    "over random order of ties; gallery rows of the query's own item{} are left out (retrieval/1)."
)
_EXCLUDED = {"own-item": "", "same-group": ", and those of its label and group,"}
_AT_DEPTH = {
    "r_at_{}": "Recall at {}: share of queries with a match among the {} nearest gallery rows, ",
    "p_at_{}": "Precision at {}: number of matches among the {} nearest gallery rows, divided by {}, ",
}
_OF_THE_BEST = {
    "r_precision": "R-precision: share of matches among the R nearest gallery rows, R being the query's number of "
    "matches, ",
    "map_at_r": "MAP@R: precision at each match among the R nearest gallery rows, summed and divided by R, the "
    "query's number of matches, ",
}
_OF_ALL = {
    "map": "Mean average precision: mean of the precision at each match in the whole ranking, ",
    "mrr": "Mean reciprocal rank: one divided by the rank of the best match, ",
}
_CUT_RECIPROCAL = (
    "Mean reciprocal rank at {}: one divided by the rank of the best match, 0 where that rank is above {}, "
)
_UNMATCHED = "Number of queries of known label (>= 0) without a match, which no other metric counts (retrieval/1)."


@register("evaluator", "retrieval")
@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall, precision, R-precision, MAP@R, mean average precision and reciprocal rank, exact for any size.

    Ties count by their expected value, so a constant model scores chance. Memory beyond the rows stays under a
    gigabyte, whatever the number of queries, for galleries of up to a million rows.

    Paper: K. Musgrave, S. Belongie, S.-N. Lim. A Metric Learning Reality Check. ECCV 2020 (MAP@R).

    Args:
        k: depths of recall and precision; at depth 1 both are the same.
        mrr_k: depths at which the mean reciprocal rank is cut; it takes 0 for a query whose best match is further down.
        exclude: gallery rows that are no candidates: "own-item", the query's own image, or "same-group", also those of
            its label and group, as in re-identification the images of one person by one camera. A row of unknown label
            or group is of nobody's group.
        whole_ranking: also mean average precision and reciprocal rank, which depend on matches however far down; all
            else depends on the best rows, and is found sooner without them.

    Example:
        >>> z, labels = torch.eye(3).repeat(2, 1), [0, 1, 2, 0, 1, 2]
        >>> Retrieval()(z, labels)["map_at_r"].value  # each row looks among all others
        1.0
        >>> Retrieval(k=(1, 10))(z, labels, torch.eye(3), [0, 1, 2])["r_at_1"].value
        1.0
    """

    k: tuple[Annotated[int, Gt(0)], ...] = (1, 5, 10)
    mrr_k: tuple[Annotated[int, Gt(0)], ...] = ()
    exclude: Literal["own-item", "same-group"] = "own-item"
    whole_ranking: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """What the data must have besides labels."""
        return ("groups",) if self.exclude == "same-group" else ()

    @property
    def definitions(self) -> dict[str, str]:
        """How each metric is computed."""
        per_depth = {name.format(at): text.format(at, at, at) for name, text in _AT_DEPTH.items() for at in self.k}
        per_depth |= {f"mrr_at_{at}": _CUT_RECIPROCAL.format(at, at) for at in self.mrr_k}
        texts = per_depth | _OF_THE_BEST | (_OF_ALL if self.whole_ranking else {})
        rules = _RULES.format(_EXCLUDED[self.exclude])
        return {name: text + rules for name, text in texts.items()}

    __call__ = call_evaluator

    def sides(self, queries: Rows, gallery: Rows) -> tuple[Rows, Rows]:
        """The rows with equal items for those that may not find each other; raises as `steps`."""
        return groups_as_items(queries, gallery) if self.exclude == "same-group" else (queries, gallery)

    @torch.no_grad()
    def steps(self, queries: Rows, gallery: Rows, /) -> ProgressGenerator[dict[str, Score]]:
        """Every metric by name; `per_query` is NaN for a query of unknown label or without a match.

        Args:
            queries: rows to look for; those with a negative label are passed over.
            gallery: rows to look among. Rows of the query's own item are left out.

        Raises:
            DivergedError: where an embedding is not finite.
            DataError: where groups are to be excluded, and a side has none.
        """
        queries, gallery = self.sides(queries, gallery)
        definitions = self.definitions
        values = {name: torch.full((len(queries),), torch.nan, dtype=torch.float64) for name in definitions}
        unmatched = values["queries_without_matches"] = torch.where(queries.labels < 0, torch.nan, 1.0).double().cpu()
        index = LabelIndex.of(queries.labels, gallery.labels)
        depth = None if self.whole_ranking else min(max(self.k + self.mrr_k, default=0), len(gallery))
        done, total = 0, len(index.queries_with_rows())
        for indices, measured in measured_matches(self._measure, queries, gallery, index, depth):
            place = indices.cpu()
            for name, value in measured.items():
                values[name][place] = value.cpu()
            done += len(indices)
            yield done / total
        scores = {name: Score(float(values[name].nanmean()), values[name], text) for name, text in definitions.items()}
        return {**scores, "queries_without_matches": Score(float(unmatched.nansum()), unmatched, _UNMATCHED)}

    def _measure(self, ranked: RankedMatches) -> dict[str, Float64[Tensor, "b"]]:
        relevant, depths = ranked.relevant, [min(k, ranked.length) for k in self.k]
        *at_depths, among_r = ranked.hits(torch.stack([*(torch.full_like(relevant, k) for k in depths), relevant]))
        measured = {
            **{f"r_at_{k}": chance for k, chance in zip(self.k, ranked.any_hit(depths), strict=True)},
            **{f"p_at_{k}": hits / float(k) for k, hits in zip(self.k, at_depths, strict=True)},
            **{f"mrr_at_{k}": ranked.reciprocal_rank(k) for k in self.mrr_k},
            "r_precision": among_r / relevant,
            "map_at_r": ranked.summed_precision(relevant) / relevant,
        }
        if self.whole_ranking:
            everything = torch.full_like(relevant, ranked.length)
            measured |= {"map": ranked.summed_precision(everything) / relevant, "mrr": ranked.reciprocal_rank()}
        found = relevant > 0
        return {
            **{name: value.where(found, torch.nan) for name, value in measured.items()},
            "queries_without_matches": (~found).double(),
        }
