"""Weighted nearest-neighbour classification: the training-free probe of an embedding."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from metriclab.core.progress import ProgressGenerator, exhaust
from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.ranking.keys import EXCLUDED, STEP, equal_range
from metriclab.ranking.nearest import nearest
from metriclab.registry import register

_EQUAL_VOTES = 1 - 1e-9
"""Votes closer than this are tied: they are sums of the same weights in another order."""


@register("evaluator", "knn")
class NearestNeighbours:
    """Accuracy of a vote of the nearest gallery rows, each weighted by exp(similarity / temperature).

    No tie is broken by position: rows tied at the last place share the votes left, and classes tied in the vote share
    the prediction.

    Paper: Z. Wu, Y. Xiong, S. Yu, D. Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination.
    CVPR 2018.

    Args:
        k: number of neighbours; a smaller gallery votes as a whole.
        temperature: lower trusts the nearest neighbours more.
    """

    def __init__(self, *, k: Annotated[int, Gt(0)] = 200, temperature: Annotated[float, Gt(0)] = 0.07) -> None:
        self.k, self.temperature = k, temperature
        self.definition = (
            f"Share of queries whose label wins the vote of the {k} nearest gallery rows of known label, each weighted "
            f"by exp(cosine / {temperature}); rows tied in cosine (rounded to a multiple of 2^-20) at the last place "
            "share the votes left equally, classes tied in the vote the prediction; over queries of known label (>= 0) "
            "whose label is in the gallery; where the queries are the gallery (leave-one-out), rows of the query's own "
            "item are left out, elsewhere none is (knn/1)."
        )

    @torch.no_grad()
    def __call__(self, queries: Rows, gallery: Rows, /) -> dict[str, Score]:
        """The accuracy and the number of queries it leaves out.

        Args:
            queries: rows to classify; those with a negative label are passed over.
            gallery: rows that vote; the same object as `queries` for leave-one-out.

        Raises:
            DivergedError: where an embedding is not finite.
        """
        return exhaust(self.steps(queries, gallery))

    @torch.no_grad()
    def steps(self, queries: Rows, gallery: Rows, /) -> ProgressGenerator[dict[str, Score]]:
        """As a call, a few queries at a time."""
        correct = torch.full((len(queries),), torch.nan, dtype=torch.float64)
        lone = torch.where(queries.labels < 0, torch.nan, 1.0).double().cpu()
        classes, codes = torch.unique(gallery.labels, return_inverse=True)
        known = (queries.labels >= 0) & torch.isin(queries.labels, classes)
        chosen, done = known.nonzero().squeeze(1), 0
        found = _others_alike(queries, gallery) > 0
        for indices, columns, keys in nearest(queries, gallery, chosen, self.k, gallery.labels >= 0):
            own = torch.searchsorted(classes, queries.labels[indices])[:, None]
            near = codes[columns]
            candidates = _candidates(near) if near.shape[1] < len(classes) else near
            votes = self._votes(keys, candidates, min(near.shape[1], len(classes)))
            winners = votes >= votes.amax(1, keepdim=True) * _EQUAL_VOTES
            right = (winners.gather(1, candidates) & (near == own)).any(1)
            share = right / winners.sum(1).double()
            place = indices.cpu()
            correct[place] = share.where(found[indices], torch.nan).cpu()
            lone[place] = (~found[indices]).double().cpu()
            done += len(indices)
            yield done / len(chosen)
        return {
            "accuracy": Score(float(correct.nanmean()), correct, self.definition),
            "queries_without_matches": Score(
                float(lone.nansum()),
                lone,
                "Number of queries of known label (>= 0) whose label no row of their gallery has; accuracy does not "
                "count them (knn/1).",
            ),
        }

    def _votes(self, keys: Int32[Tensor, "b n"], codes: Int64[Tensor, "b n"], classes: int) -> Float64[Tensor, "b c"]:
        k = min(self.k, keys.shape[1])
        nearest, columns = keys.topk(min(k + 1, keys.shape[1]), dim=1, largest=False)
        last = nearest[:, k - 1 : k]
        # Relative to the nearest, so that no weight overflows at a low temperature.
        weights = torch.exp((nearest[:, :1] - nearest[:, :k]).double() * STEP / self.temperature)
        weights = weights.where(nearest[:, :k] != EXCLUDED, 0.0)
        cut = (nearest[:, k:] == last).any(1) & (last != EXCLUDED).squeeze(1)
        among_cut = cut[:, None] & (nearest[:, :k] == last)
        votes = weights.new_zeros(len(keys), classes)
        votes.scatter_add_(1, codes.gather(1, columns[:, :k]), weights.where(~among_cut, 0.0))
        some = cut.nonzero().squeeze(1)
        left = (weights * among_cut).sum(1)[some, None]
        tied = keys[some] == last[some]
        votes[some] = votes[some].scatter_add_(1, codes[some], tied * left / tied.sum(1, keepdim=True))
        return votes


def _candidates(codes: Int64[Tensor, "b m"]) -> Int64[Tensor, "b m"]:
    """The classes of each row numbered from 0 on: where there are more classes than neighbours, most have no vote."""
    ordered, order = codes.sort(1)
    numbers = torch.zeros_like(codes)
    numbers[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    return numbers.scatter(1, order, numbers)


def _others_alike(queries: Rows, gallery: Rows) -> Int64[Tensor, "q"]:
    """How many gallery rows have the label of each query; in leave-one-out, of other items."""
    alike = equal_range(queries.labels, gallery.labels.sort().values)[1]
    if gallery is not queries:
        return alike
    labels, items = (torch.unique(side, return_inverse=True)[1] for side in (queries.labels, queries.items))
    _, both, own = torch.unique(labels * len(items) + items, return_inverse=True, return_counts=True)
    others: Tensor = alike - own[both]
    return others
