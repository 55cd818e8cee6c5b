"""Robustness: what is left of a metric when the queries are corrupted."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor

from metriclab.core.protocols import EvaluatedEncoder, Score
from metriclab.core.rows import Rows
from metriclab.evaluators.corruptions import CORRUPTIONS, Corruption
from metriclab.evaluators.inner import InnerParameters, inner_evaluator, require_metric
from metriclab.evaluators.probes.examples import divide
from metriclab.registry import register


@register("evaluator", "robustness")
class Robustness:
    """A metric of any evaluator on corrupted queries, by corruption and severity, at the end of a run.

    No query meets its own clean image: in leave-one-out the queries are one half of the items of each test class, and
    the gallery is the other half, clean; a gallery of other items stays as it is.

    Paper: D. Hendrycks, T. Dietterich. Benchmarking Neural Network Robustness to Common Corruptions and Perturbations.
    ICLR 2019 (noise, blur, contrast, brightness, pixelate, JPEG).

    Args:
        evaluator: what to measure.
        metric: which of its metrics; higher must be better for a drop to mean anything.
        parameters: of that evaluator, where they are not its defaults.
        corruptions: of the test view.
        severities: from 1, mild, to 5, strong.
    """

    wants = "encoder"

    def __init__(
        self,
        *,
        evaluator: str = "retrieval",
        metric: str = "map_at_r",
        parameters: InnerParameters = {},  # noqa: B006  (a plain default, never changed)
        corruptions: Annotated[tuple[Corruption, ...], MinLen(1)] = tuple(CORRUPTIONS),
        severities: Annotated[tuple[Annotated[int, Ge(1), Le(5)], ...], MinLen(1)] = (1, 2, 3, 4, 5),
    ) -> None:
        self.evaluator, self.metric = inner_evaluator("robustness", evaluator, parameters), metric
        self.cases = [(name, severity) for name in dict.fromkeys(corruptions) for severity in sorted(set(severities))]
        require_metric("robustness", self.evaluator, evaluator, metric)
        self.measured = f"{metric} of {evaluator}"

    @torch.no_grad()
    def __call__(self, encoder: EvaluatedEncoder, /) -> dict[str, Score]:
        """`<corruption>_<severity>` for each case, `clean`, `corrupted` (their mean) and `relative_drop`.

        Raises:
            DivergedError: where an embedding is not finite.
        """
        everything, gallery = encoder.queries, encoder.gallery
        kept, asked = divide(everything, gallery)
        gallery = gallery[kept]
        chosen = asked.nonzero().squeeze(1)
        clean = self._measure(everything[chosen], gallery)
        found = {}
        for name, severity in self.cases:
            change = partial(CORRUPTIONS[name], severity=severity)
            queries = encoder.embed_changed(change, chosen) if len(chosen) else everything[chosen]
            found[name, severity] = self._measure(queries, gallery)
        mean = sum(score.value for score in found.values()) / len(found)
        drop = (clean.value - mean) / clean.value if clean.value else math.nan
        by_query = _mean([score.per_query for score in found.values()])
        places = chosen.cpu()
        return {
            "clean": Score(clean.value, _spread(clean.per_query, places, asked), self._define("clean queries")),
            "corrupted": Score(mean, _spread(by_query, places, asked), self._define("all corruptions and severities")),
            "relative_drop": Score(drop, _NOTHING, f"(clean - corrupted) / clean, {self._define('both')}"),
            **{
                f"{name}_{severity}": Score(
                    score.value, _NOTHING, f"{self.measured} under {name} of severity {severity}"
                )
                for (name, severity), score in found.items()
            },
        }

    def _measure(self, queries: Rows, gallery: Rows) -> Score:
        return self.evaluator(queries, gallery)[self.metric]

    def _define(self, what: str) -> str:
        return (
            f"{self.measured}, {what}; the test view of each query is corrupted, the gallery is not; of each "
            "class, the items that both sides have (all of them in leave-one-out) are cut in two halves by a hash of "
            "the item, the larger one the gallery, the other one the queries (robustness/1)."
        )


_NOTHING = torch.empty(0, dtype=torch.float64)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)


def _spread(values: Tensor, places: Tensor, among: Tensor) -> Tensor:
    """The values at their places among all queries, NaN elsewhere; none where no single query has the metric."""
    if values.shape != places.shape:
        return _NOTHING
    result = torch.full(among.shape, torch.nan, dtype=torch.float64)
    result[places] = values.double().cpu()
    return result
