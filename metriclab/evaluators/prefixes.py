"""Prefixes: what is left of a measure when only the leading dimensions of an embedding are kept."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Gt, MinLen

from metriclab.core.progress import ProgressGenerator
from metriclab.core.protocols import Score
from metriclab.core.rows import Rows, normalize
from metriclab.core.settings import keep_settings, repr_settings
from metriclab.errors import RecipeError
from metriclab.evaluators.call import call_evaluator
from metriclab.evaluators.inner import InnerParameters, inner_evaluator
from metriclab.registry import register

_COUNT = "queries_without_matches"  # whatever the dimensions


@register("evaluator", "prefixes")
class Prefixes:
    """All metrics of any evaluator of rows on prefixes of the embedding, each of norm 1 again, as `dim_64_map_at_r`.

    A prefix that is trained, by `dims` of a loss, is an embedding by itself; others are cut for comparison. Where an
    embedding beside the one that is measured, such as a baseline's, has fewer dimensions, the metric is NaN.

    Paper: Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022, arXiv 2205.13147, section 4.2.

    Args:
        dims: lengths of the prefixes, all different.
        evaluator: what to measure.
        parameters: of that evaluator, where they are not its defaults.

    Raises:
        RecipeError: for dims that are repeated, or an evaluator that wants the encoder itself.

    Example:
        >>> scores = Prefixes(dims=[2, 4])(torch.eye(4).repeat(2, 1), [0, 1, 2, 3, 0, 1, 2, 3])
        >>> scores["dim_4_map_at_r"].value
        1.0
    """

    of_prefixes = True
    __repr__ = repr_settings
    __call__ = call_evaluator

    def __init__(
        self,
        *,
        dims: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)],
        evaluator: str = "retrieval",
        parameters: InnerParameters = {},  # noqa: B006  (a plain default, never changed)
    ) -> None:
        if len(set(dims)) < len(dims):
            raise RecipeError(f"dims = {list(dims)} has a number twice", help="keep one of them")
        keep_settings(self, locals())
        self.dims = tuple(dims)
        self.evaluator = inner_evaluator("prefixes", evaluator, parameters)

    @torch.no_grad()
    def steps(self, queries: Rows, gallery: Rows, /) -> ProgressGenerator[dict[str, Score]]:
        """Every metric of the evaluator for every prefix."""
        found: dict[str, Score] = {}
        width = queries.embedding_dim
        for place, dim in enumerate(self.dims, 1):
            enough = dim <= width
            first = _prefix(queries, dim)
            scores = self.evaluator(first, first if gallery is queries else _prefix(gallery, dim))
            for name, score in scores.items():
                key = name if name == _COUNT else f"dim_{dim}_{name}"
                where = "of norm 1 again" if enough else f"which are not there, as the embedding has {width}"
                text = f"Of the first {dim} dimensions, {where}: {score.definition}"
                kept = score if enough else Score(math.nan, torch.empty(0, dtype=torch.float64))
                found[key] = score if name == _COUNT else replace(kept, definition=text)
            yield place / len(self.dims)
        return found


def _prefix(rows: Rows, dim: int) -> Rows:
    """The leading dimensions; a row that is not finite anywhere stays so."""
    z = rows.z[:, :dim] if dim < rows.embedding_dim else rows.z
    finite = rows.z.isfinite().all(1, keepdim=True)
    return replace(rows, z=torch.where(finite, normalize(z), torch.nan))
