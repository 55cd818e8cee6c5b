"""What of a recipe fits together is known for some of it only with the data and the network."""

from __future__ import annotations

from jaxtyping import Int64
from torch import Tensor

from metriclab.core.network import Network
from metriclab.recipe import Recipe, RecipeProblems
from metriclab.recipe.losses import too_many


def check_fitting(recipe: Recipe, network: Network, classes: Int64[Tensor, "c"]) -> None:
    """Checks losses over classes against the training labels, and evaluated dimensions against the network.

    Raises:
        RecipeError: for classes that are asked for where no label is known, or dimensions that are not there.
    """
    method = recipe.components["method"]
    if len(classes) == 0 and getattr(method.definition.factory, "by_class", False):
        _refuse_losses(recipe)
    output = network.head if recipe.train.output == "z" else network.encoder
    for evaluator in recipe.evaluators:
        if getattr(evaluator.definition.factory, "of_prefixes", False):
            highest = max(evaluator.params["dims"])
            width = int(output.out_features)  # type: ignore[arg-type]  # of encoders and heads, a number
            if highest > width:
                message, help = too_many(highest, width)
                raise evaluator.refusal(f"{message} {recipe.train.output}", help)


def _refuse_losses(recipe: Recipe) -> None:
    method = recipe.components["method"]
    message = "tells classes apart, and the training split has no labels"
    if recipe.losses:
        wrong = [entry for entry in recipe.losses.entries if entry.options.labels == "method"]
        help = 'remove it, or set labels = "item" to tell images apart'
        refused = [entry.spec.refusal(f"loss '{entry.spec.name}' {message}", help) for entry in wrong]
        if refused:
            raise RecipeProblems([problem for one in refused for problem in one.problems])
    elif "loss" in recipe.components:
        raise method.refusal(f"method '{method.name}' {message}", "choose data with labels, or a method such as simclr")
