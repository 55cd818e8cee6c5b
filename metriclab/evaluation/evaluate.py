"""From rows to scores: every evaluator measures the same queries against the same gallery."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from metriclab.assembly.splits import sides_of
from metriclab.core.progress import ProgressGenerator
from metriclab.core.promises import BrokenPromise, check_scores
from metriclab.core.protocols import Change, Dataset, EvaluatedEncoder, Evaluator, Score
from metriclab.core.rows import Rows
from metriclab.errors import PluginError
from metriclab.evaluation.embed import (
    EmbeddedSplits,
    EmbeddingSettings,
    Encode,
    Output,
    embed,
    embed_splits,
)
from metriclab.registry.decorator import source_of

Scores = Mapping[str, Mapping[str, Score]]


@dataclass(frozen=True, slots=True)
class RunEncoder:
    """An encoder with its queries and gallery: the `EvaluatedEncoder` of evaluators that want more than rows.

    Attributes:
        encode: the network.
        protocol: what it is measured by.
    """

    queries: Rows
    gallery: Rows
    encode: Encode
    protocol: TestProtocol

    def embed_changed(self, change: Change, chosen: Int64[Tensor, "n"], /) -> Rows:
        """The chosen queries, embedded anew from their test views as `change` makes them."""
        items = chosen.cpu().numpy()  # there is a row for each query of the protocol, in their order
        changed = embed(self.encode, self.protocol.queries, self.protocol.settings, items, change)
        return getattr(changed, self.protocol.output)  # type: ignore[no-any-return]  # Rows

    def embed_other(self, test: Dataset, train: Dataset, /) -> tuple[Rows, Rows]:
        """Queries and gallery of another data set: the same object where its test classes are not in `train`."""
        other = embed_splits(self.encode, *sides_of(test, train), self.protocol.settings)
        return other.rows(self.protocol.output)


@dataclass(frozen=True, slots=True)
class TestProtocol:
    """How encoders are measured on a test split: a trained one and its baselines alike.

    Attributes:
        evaluators: by name.
        queries: the test split.
        gallery: what it is held against; the same object for leave-one-out.
        settings: how images are embedded.
        output: which output is measured.
    """

    __test__ = False  # for pytest, which would take it for a test

    evaluators: Mapping[str, Evaluator]
    queries: Dataset
    gallery: Dataset
    settings: EmbeddingSettings
    output: Output

    def embed(self, encode: Encode) -> EmbeddedSplits:
        """Queries and gallery as rows."""
        return embed_splits(encode, self.queries, self.gallery, self.settings)

    def scores(self, encode: Encode, embedded: EmbeddedSplits) -> Scores:
        """What all evaluators measure, also those that want the encoder."""
        queries, gallery = embedded.rows(self.output)
        return run_evaluators(self.evaluators, queries, gallery, RunEncoder(queries, gallery, encode, self))


def run_evaluators(
    evaluators: Mapping[str, Evaluator], queries: Rows, gallery: Rows, encoder: EvaluatedEncoder | None = None
) -> Scores:
    """Every evaluator on the same rows, held to what its protocol asks of scores.

    Args:
        evaluators: by name.
        queries, gallery: the same object for leave-one-out.
        encoder: for the evaluators that want it; without it they are left out.

    Raises:
        PluginError: where one gives anything but scores of these queries.
    """
    scores: dict[str, Mapping[str, Score]] = {}
    for name, evaluator in evaluators.items():
        if not wants_encoder(evaluator):
            scores[name] = evaluator(queries, gallery)
        elif encoder is not None:
            scores[name] = evaluator(encoder)  # type: ignore[call-arg, arg-type]  # what it says it wants
    for name, found in scores.items():
        _check(name, evaluators[name], found, len(queries))
    return scores


def _check(name: str, evaluator: Evaluator, found: Mapping[str, Score], queries: int) -> None:
    try:
        check_scores(f"evaluator '{name}'", found, queries)
    except BrokenPromise as error:
        source = source_of(evaluator)
        help = "its author must mend that; `metriclab check-plugin` tests all of it"
        raise PluginError(f"{source}: {error}", help=help) from error


def steps_of(evaluator: Evaluator, queries: Rows, gallery: Rows) -> ProgressGenerator[Mapping[str, Score]]:
    """What an evaluator of rows measures, saying how far it is where the evaluator does."""
    steps: Callable[[Rows, Rows], ProgressGenerator[Mapping[str, Score]]] | None = getattr(evaluator, "steps", None)
    if steps is None:
        return evaluator(queries, gallery)
    return (yield from steps(queries, gallery))


def wants_encoder(evaluator: object) -> bool:
    """Whether an evaluator, or the class of one, needs the encoder itself."""
    return getattr(evaluator, "wants", "rows") == "encoder"


def score_values(scores: Scores) -> dict[str, dict[str, float]]:
    """The numbers alone."""
    return {name: {metric: score.value for metric, score in part.items()} for name, part in scores.items()}


def score_definitions(scores: Scores) -> dict[str, dict[str, str]]:
    """How each number is defined."""
    return {name: {metric: score.definition for metric, score in part.items()} for name, part in scores.items()}


def scores_by_query(scores: Scores, queries: int) -> dict[str, Tensor]:
    """Every metric that has a value a query, as float32 under "evaluator.metric"."""
    return {
        f"{name}.{metric}": score.per_query.detach().cpu().float().contiguous()
        for name, part in scores.items()
        for metric, score in part.items()
        if score.per_query.shape == (queries,)
    }


def scores_by_class(scores: Scores, classes: Int64[Tensor, "c"]) -> dict[str, Tensor]:
    """Every metric that classes have, as float32 under "evaluator.metric.per_class", in the order of "classes".

    A class without the metric has NaN. "classes" is there where any metric is.
    """
    by_class = {
        f"{name}.{metric}.per_class": torch.tensor(
            [score.per_class.get(label, float("nan")) for label in classes.tolist()], dtype=torch.float32
        )
        for name, part in scores.items()
        for metric, score in part.items()
        if score.per_class
    }
    return {**by_class, "classes": classes} if by_class else {}
