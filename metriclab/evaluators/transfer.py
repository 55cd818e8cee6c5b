"""Transfer: how good the embedding is on another data set than the one it was trained on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

import torch

from metriclab.core.protocols import EvaluatedEncoder, Score
from metriclab.core.settings import keep_settings, repr_settings
from metriclab.core.splits import build_splits, has_features
from metriclab.errors import RecipeError
from metriclab.evaluators.inner import InnerParameters, inner_evaluator
from metriclab.registry import TableOf, build, load_component, register


@register("evaluator", "transfer")
class Transfer:
    """Any evaluator on the test split of another data set, seen by the same views, at the end of a run.

    Its test queries are held against its training split where they share classes, else against each other.

    Args:
        data: the other data set, as a [data] table would have it: {name = "fashion-mnist"}.
        evaluator: what to measure there.
        parameters: of that evaluator, where they are not its defaults.
    """

    wants = "encoder"
    __repr__ = repr_settings

    def __init__(
        self,
        *,
        data: Annotated[dict[str, object], TableOf("dataset")],
        evaluator: str = "retrieval",
        parameters: InnerParameters = {},  # noqa: B006  (a plain default, never changed)
    ) -> None:
        keep_settings(self, locals())
        self.name, self.parameters = _name(data), {key: value for key, value in data.items() if key != "name"}
        load_component("dataset", self.name)
        self.evaluator = inner_evaluator("transfer", evaluator, parameters)
        open_split = partial(build, "dataset", self.name, **self.parameters)
        self.test, self.train = build_splits(open_split, ("test", "train"))
        if has_features(self.test):
            message = f"evaluator 'transfer' embeds images, and data set '{self.name}' has features in place of them"
            raise RecipeError(message, help="name a data set of images")
        self.fingerprint = {"test": self.test.fingerprint, "train": self.train.fingerprint}

    def __call__(self, encoder: EvaluatedEncoder, /) -> dict[str, Score]:
        """The evaluator's scores; none has values by query, as those are no queries of the run's own test split.

        Raises:
            DivergedError: where an embedding is not finite.
        """
        queries, gallery = encoder.embed_other(self.test, self.train)
        against = "each other" if torch.equal(queries.items, gallery.items) else "its training split"
        nothing = torch.empty(0, dtype=torch.float64)
        where = f"On the test split of {self.name}, held against {against}, by the run's test view (transfer/1): "
        return {
            metric: replace(score, per_query=nothing, per_class={}, definition=where + score.definition)
            for metric, score in self.evaluator(queries, gallery).items()
        }


def _name(data: dict[str, object]) -> str:
    name = data.get("name")
    if not isinstance(name, str):
        help = 'write data = {name = "..."}; `metriclab list dataset` shows the names'
        raise RecipeError("evaluator 'transfer' is given no name of a data set", help=help)
    return name
