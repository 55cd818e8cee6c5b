"""Weighted nearest-neighbour classification: the training-free probe of an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from metriclab.core.progress import ProgressGenerator
from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.evaluators.call import call_evaluator
from metriclab.ranking.candidates import count_matches
from metriclab.ranking.keys import EXCLUDED, STEP
from metriclab.ranking.neighbours import nearest_rows
from metriclab.registry import register

_EQUAL_VOTES = 1 - 1e-9
"""Votes closer than this are tied: they are sums of the same weights in another order."""


@register("evaluator", "knn")
@dataclass(frozen=True, kw_only=True)
class KNN:
    """Accuracy of a vote of the nearest gallery rows, each weighted by exp(similarity / temperature).

    No tie is broken by position: rows tied at the last place share the votes left, and classes tied in the vote share
    the prediction.

    Paper: Z. Wu, Y. Xiong, S. Yu, D. Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination.
    CVPR 2018.

    Args:
        k: number of neighbours; a smaller gallery votes as a whole.
        temperature: lower trusts the nearest neighbours more.

    Example:
        >>> z, labels = torch.eye(3).repeat(2, 1), [0, 1, 2, 0, 1, 2]
        >>> KNN(k=2)(z, labels, torch.eye(3), [0, 1, 2])["accuracy"].value
        1.0
    """

    k: Annotated[int, Gt(0)] = 200
    temperature: Annotated[float, Gt(0)] = 0.07

    @property
    def definition(self) -> str:
        """How the accuracy is computed."""
        return (
            f"Share of queries whose label wins the vote of the {self.k} nearest gallery rows of known label, each "
            f"weighted by exp(cosine / {self.temperature}); rows tied in cosine (rounded to a multiple of 2^-20) at "
            "the last place share the votes left equally, classes tied in the vote the prediction; over queries of "
            "known label (>= 0) whose label is in the gallery; gallery rows of the query's own item are left out "
            "(knn/1)."
        )

    __call__ = call_evaluator

    @torch.no_grad()
    def steps(self, queries: Rows, gallery: Rows, /) -> ProgressGenerator[dict[str, Score]]:
        """The accuracy and the number of queries it leaves out.

        Args:
            queries: rows to classify; those with a negative label are passed over.
            gallery: rows that vote. Rows of the query's own item are left out.

        Raises:
            DivergedError: where an embedding is not finite.
        """
        correct = torch.full((len(queries),), torch.nan, dtype=torch.float64)
        unmatched = torch.where(queries.labels < 0, torch.nan, 1.0).double().cpu()
        classes, codes = torch.unique(gallery.labels, return_inverse=True)
        known = (queries.labels >= 0) & torch.isin(queries.labels, classes)
        chosen, done = known.nonzero().squeeze(1), 0
        found = count_matches(queries, gallery) > 0
        for indices, columns, keys in nearest_rows(queries, gallery, chosen, self.k, gallery.labels >= 0):
            own = torch.searchsorted(classes, queries.labels[indices])[:, None]
            near = codes[columns]
            candidates = _candidates(near) if near.shape[1] < len(classes) else near
            votes = self._votes(keys, candidates, min(near.shape[1], len(classes)))
            winners = votes >= votes.amax(1, keepdim=True) * _EQUAL_VOTES
            right = (winners.gather(1, candidates) & (near == own)).any(1)
            share = right / winners.sum(1).double()
            place = indices.cpu()
            correct[place] = share.where(found[indices], torch.nan).cpu()
            unmatched[place] = (~found[indices]).double().cpu()
            done += len(indices)
            yield done / len(chosen)
        return {
            "accuracy": Score(float(correct.nanmean()), correct, self.definition),
            "queries_without_matches": Score(
                float(unmatched.nansum()),
                unmatched,
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
