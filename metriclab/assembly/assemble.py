"""From a checked recipe to the objects that run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from metriclab import distributed
from metriclab.assembly.devices import choose_device, set_up_torch
from metriclab.assembly.fitting import check_fitting
from metriclab.assembly.learning_rates import build_optimizer
from metriclab.assembly.sampler import build_sampler
from metriclab.assembly.statistics import Statistics, give_statistics, statistics_for
from metriclab.assembly.trial import require_finite, try_one_image
from metriclab.assembly.weights import build_encoder
from metriclab.core.call_loss import check_memory_fits
from metriclab.core.network import Network
from metriclab.core.protocols import Dataset, Evaluator, Sampler, Schedule, Views
from metriclab.distributed.batch_norm import synchronize_batch_norm
from metriclab.recipe import Recipe, Train


@dataclass(frozen=True, slots=True)
class Training:
    """What a run trains with.

    Attributes:
        data: the training split.
        sampler, optimizer: None for a run of no steps.
        steps: of the whole run.
        features: of all items, on the device, for a method that trains on features; see `with_features`.
        statistics: of the training images, where the encoder was given them.
    """

    settings: Train
    device: torch.device
    data: Dataset
    views: Views
    sampler: Sampler | None
    method: nn.Module
    optimizer: Optimizer | None
    schedule: Schedule
    steps: int
    features: Float[Tensor, "n d"] | None = None
    statistics: Statistics | None = None


def assemble(recipe: Recipe, data: Dataset, *, initial: bool = True) -> Training:
    """Builds everything that training needs, on this rank's device, the same on every rank.

    Where one rank cannot, all fail.

    Args:
        recipe: a checked recipe.
        data: the training split.
        initial: whether to fetch the initial weights that the recipe names; a checkpoint makes them needless.
    """
    training = distributed.on_every_rank(lambda: _assembled(recipe, data, initial))
    distributed.broadcast_module(training.method)
    return training


def _assembled(recipe: Recipe, data: Dataset, initial: bool) -> Training:
    settings, device = recipe.train, choose_device(recipe.train.device)
    set_up_torch(settings)
    sampler = None if settings.steps == 0 else build_sampler(recipe, data)
    steps = number_of_steps(settings, sampler)
    method = build_method(recipe, classes_of(data.labels), steps, initial=initial)
    statistics = statistics_for(method.get_submodule("network"), data) if initial else None
    give_statistics(method.get_submodule("network"), statistics)
    method = method.to(device)
    if settings.channels_last:
        method.to(memory_format=torch.channels_last)
    if settings.synchronize_batch_norm and distributed.world_size() > 1:
        method = synchronize_batch_norm(method)
    optimizer = None
    if sampler is not None:
        optimizer = build_optimizer(recipe, method, sampler.batch_size)
    schedule = recipe.components["schedule"].build(max(steps, 1))
    views: Views = recipe.components["views"].build()
    require_finite(method, recipe)
    try_one_image(recipe, method, views, data, device)
    if settings.compile:
        method.get_submodule("network.encoder").compile()
    return Training(settings, device, data, views, sampler, method, optimizer, schedule, steps, statistics=statistics)


def number_of_steps(settings: Train, sampler: Sampler | None) -> int:
    """Length of the run; the recipe gives it in steps or in epochs."""
    if sampler is None:
        return 0
    return settings.steps if settings.steps is not None else (settings.epochs or 0) * sampler.steps


def build_method(
    recipe: Recipe, classes: Int64[Tensor, "c"], total_steps: int = 1, *, initial: bool = True
) -> nn.Module:
    """The method with its network and components, on the CPU; parameters drawn from the recipe's seed.

    Args:
        recipe: a checked recipe.
        classes: sorted training labels, for memories that hold a row a class.
        total_steps: of the run, at least 1, for methods that change over it; says nothing where nothing is trained.
        initial: False builds it for a checkpoint: the encoder's `pretrained` and `weights`, which only say what
            to start from, are left out.
    """
    torch.manual_seed(recipe.train.seed)
    parts = recipe.components
    built: dict[str, Any] = {**parts, "loss": recipe.losses} if recipe.losses else {**parts}
    encoder = build_encoder(parts["encoder"], initial=initial)
    network = Network(encoder, parts["head"].build(encoder.out_features))
    check_fitting(recipe, network, classes)
    chosen = parts["method"].definition
    remembered = encoder if getattr(chosen.factory, "remembers", "z") == "h" else network.head
    given = {"loss": (network.head.out_features, classes), "memory": (remembered.out_features, classes)}
    components = {
        name: built[component.kind].build(*given.get(component.kind, ()))
        for name, component in chosen.components.items()
        if component.kind in built
    }
    check_memory_fits(components.get("loss"), parts.get("memory"))
    method: nn.Module = parts["method"].build(network, max(total_steps, 1), **components)
    return method


def build_evaluators(recipe: Recipe) -> dict[str, Evaluator]:
    """The recipe's evaluators by what they are called in results."""
    return {chosen.label: chosen.build() for chosen in recipe.evaluators}


def classes_of(labels: np.ndarray) -> Int64[Tensor, "c"]:
    """Sorted known labels."""
    return torch.from_numpy(np.unique(labels[labels >= 0]))
