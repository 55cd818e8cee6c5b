"""The optimizer of a run: what it is built of, and learning rates that depend on the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from metriclab.core.protocols import Schedule
from metriclab.errors import RecipeError
from metriclab.recipe import Recipe


def optimized_modules(method: nn.Module) -> Mapping[str, nn.Module]:
    """The parts whose learning rates a recipe can tell apart; a parameter belongs to the first that has it."""
    network = method.get_submodule("network")
    others = {name: child for name, child in method.named_children() if child is not network}
    return {
        "encoder": network.get_submodule("encoder"),
        "head": network.get_submodule("head"),
        **others,
        "method": method,
    }


def build_optimizer(recipe: Recipe, method: nn.Module, batch_size: int) -> Optimizer:
    """The recipe's optimizer of all that ever trains, with a method that stands before its first step.

    Raises:
        RecipeError: where nothing trains, in the first step or ever.
    """
    optimizer: Optimizer = recipe.components["optimizer"].build(optimized_modules(method))
    scale_learning_rate(optimizer, recipe.train.learning_rate_scaling, batch_size)
    _start_encoder(method, 0)
    _part_later_ones(optimizer)
    if not any(parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"]):
        raise RecipeError(
            "nothing trains in the first steps: the encoder is frozen, and neither head nor loss has parameters",
            help='set encoder.trainable = "all", or name a head with parameters',
        )
    return optimizer


def start_step(method: nn.Module, optimizer: Optimizer, schedule: Schedule, step: int) -> None:
    """Sets what depends on the step alone: the learning rates, and what of the encoder trains."""
    _start_encoder(method, step)
    factor = schedule(step)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def _part_later_ones(optimizer: Optimizer) -> None:
    """Gives parameters that are frozen at first groups of their own: torch's fused SGD wants one age in a group."""
    for group in list(optimizer.param_groups):
        later = [parameter for parameter in group["params"] if not parameter.requires_grad]
        if 0 < len(later) < len(group["params"]):
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
            optimizer.add_param_group({**group, "params": later})


def _start_encoder(method: nn.Module, step: int) -> None:
    """Lets the encoder train what trains in this step. Copies that a method keeps of it stand still where it does.

    What of a copy trains is its method's choice, as a rule nothing.
    """
    encoder: Any = method.get_submodule("network.encoder")
    if not hasattr(encoder, "start_step"):
        return
    encoder.start_step(step)
    copies: list[Any] = [module for module in method.modules() if type(module) is type(encoder)]
    copies.remove(encoder)
    for one in copies:
        trained = [parameter for parameter in one.parameters() if parameter.requires_grad]
        one.start_step(step)
        one.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
    if copies:
        method.train(method.training)  # a copy may be one that its method always evaluates


def scale_learning_rate(optimizer: Optimizer, rule: str, batch_size: int) -> None:
    """Chen et al. 2020, appendix B.1: lr x B / 256 ("linear") or lr x sqrt(B) ("sqrt")."""
    factor = {"none": 1.0, "linear": batch_size / 256, "sqrt": batch_size**0.5}[rule]
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] = group["lr"] * factor
