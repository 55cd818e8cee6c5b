"""Health of an embedding: how near the alike are, how evenly all are spread, over how many dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from metriclab.core.progress import ProgressGenerator
from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.evaluators.call import call_evaluator
from metriclab.ranking.candidates import are_candidates
from metriclab.ranking.keys import EXCLUDED, PART_CELLS, check_finite
from metriclab.ranking.neighbours import nearest_rows
from metriclab.registry import register


@register("evaluator", "health")
@dataclass(frozen=True, kw_only=True)
class Health:
    """Alignment, uniformity, effective rank and hubness, in memory that does not grow with the square of the rows.

    Lower alignment and uniformity are better; an effective rank near 1 is a collapse; hubness is 0 where all rows are
    retrieved alike.

    Paper: T. Wang, P. Isola. Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere. ICML 2020. O. Roy, M. Vetterli. The Effective Rank. EUSIPCO 2007. M. Radovanovic, A. Nanopoulos,
    M. Ivanovic. Hubs in Space. JMLR 2010.

    Args:
        k: neighbours among which hubness counts a row.
        temperature: t of uniformity.

    Example:
        >>> z, labels = torch.eye(3).repeat(2, 1), [0, 1, 2, 0, 1, 2]
        >>> Health(k=2)(z, labels)["alignment"].value
        0.0
    """

    k: Annotated[int, Gt(0)] = 10
    temperature: Annotated[float, Gt(0)] = 2.0

    @property
    def definitions(self) -> dict[str, str]:
        """How each figure is computed."""
        return {
            "alignment": "Mean squared distance of a query to the other queries of its label, averaged over the "
            "queries of known label (>= 0) that have one (health/1).",
            "uniformity": f"Logarithm of the mean of exp(-{self.temperature:g} * squared distance) over all pairs of "
            "queries of different items (health/1).",
            "effective_rank": "exp of the entropy of the singular values, divided by their sum, of the matrix of all "
            "queries, not centred; 0 where every row is zero (health/1).",
            "hubness": f"Skewness over the gallery of the number of queries that have a row among their {self.k} "
            "nearest; rows tied at the last place share the places left; 0 where all rows are alike; rows of the "
            "query's own item are left out (health/1).",
        }

    __call__ = call_evaluator

    @torch.no_grad()
    def steps(self, queries: Rows, gallery: Rows, /) -> ProgressGenerator[dict[str, Score]]:
        """The four figures; only alignment has a value a query.

        Args:
            queries: rows to look at, of any label.
            gallery: rows that hubness counts.

        Raises:
            DivergedError: where an embedding is not finite.
        """
        check_finite(queries.z, "queries")
        check_finite(gallery.z, "gallery")
        aligned = alignment(queries).cpu()
        values = {
            "alignment": float(aligned.nanmean()),
            "uniformity": uniformity(queries, self.temperature),
            "effective_rank": effective_rank(queries.z),
            "hubness": skewness(occurrences(queries, gallery, self.k)),
        }
        nothing = torch.empty(0, dtype=torch.float64)
        yield 1.0
        return {
            name: Score(values[name], aligned if name == "alignment" else nothing, text)
            for name, text in self.definitions.items()
        }


def alignment(rows: Rows) -> Float64[Tensor, "n"]:
    """Mean squared distance of each row to the others of its label, NaN where there are none. O(n d)."""
    _, classes = torch.unique(rows.labels, return_inverse=True)
    # What counts is the class without the item: both are groups, of which only sums are needed.
    _, own = torch.unique(torch.stack([classes, rows.items], 1), dim=0, return_inverse=True)
    z = rows.z.double()
    ones, squares = torch.ones_like(z[:, 0]), z.square().sum(1)
    count, square, product = (
        _summed(value, classes)[classes] - _summed(value, own)[own] for value in (ones, squares, z)
    )
    distances = count * squares + square - 2 * (z * product).sum(1)
    return torch.where((rows.labels >= 0) & (count > 0), distances.clamp(min=0) / count, torch.nan)


def _summed(values: Float64[Tensor, "n *_d"], groups: Int64[Tensor, "n"]) -> Float64[Tensor, "m *_d"]:
    size = int(groups.max()) + 1 if len(groups) else 0
    return values.new_zeros(size, *values.shape[1:]).index_add_(0, groups, values)


def uniformity(rows: Rows, temperature: float) -> float:
    """log mean exp(-t |x - y|^2) over pairs of different items, a tile of rows at a time; NaN without a pair."""
    z, squares = rows.z, rows.z.double().square().sum(1)
    total, pairs = z.new_zeros((), dtype=torch.float64), 0
    for part in torch.split(torch.arange(len(z), device=z.device), max(1, PART_CELLS // max(1, len(z)))):
        distances = squares[part, None] + squares - 2 * (z[part] @ z.T).double()
        other = are_candidates(rows.items[part, None], rows.items)
        total += torch.exp(-temperature * distances.clamp_(min=0)).mul_(other).sum()
        pairs += int(other.sum())
    return math.log(float(total) / pairs) if pairs and float(total) else math.nan


def effective_rank(z: Float[Tensor, "n d"]) -> float:
    """exp of the entropy of the normalised singular values."""
    gram = z.new_zeros(z.shape[1], z.shape[1], dtype=torch.float64)
    for part in torch.split(z, max(1, PART_CELLS // max(1, z.shape[1]))):
        gram += part.double().T @ part.double()
    squares = torch.linalg.eigvalsh(gram)
    # What is below this is the rounding of the products, whose root would count as a dimension.
    noise = torch.finfo(torch.float64).eps * z.shape[1] * squares.abs().amax()
    values = squares[squares > noise].sqrt()
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum())) if len(shares) else 0.0


def occurrences(queries: Rows, gallery: Rows, k: int) -> Float64[Tensor, "n"]:
    """How many queries have each gallery row among their k nearest; ties at the last place share what is left."""
    found = torch.zeros(len(gallery), dtype=torch.float64, device=gallery.z.device)
    everything, among = torch.arange(len(queries), device=queries.z.device), torch.ones_like(gallery.labels).bool()
    for _, columns, keys in nearest_rows(queries, gallery, everything, k, among):
        depth = min(k, keys.shape[1])
        last = keys.topk(depth, dim=1, largest=False).values[:, -1:]
        sure, tied = keys < last, (keys == last) & (last != EXCLUDED)
        left = (depth - sure.sum(1, keepdim=True)) / tied.sum(1, keepdim=True).clamp(min=1)
        found.index_add_(0, columns.flatten(), (sure + tied * left.double()).flatten())
    return found


def skewness(values: Float64[Tensor, "n"]) -> float:
    """Third central moment over the cube of the standard deviation; 0 where all are equal, NaN where none is."""
    if len(values) == 0:
        return math.nan
    centred = values - values.mean()
    deviation = centred.square().mean().sqrt()
    if float(deviation) <= 1e-9 * float(values.abs().max()):
        return 0.0
    return float((centred / deviation).pow(3).mean())
