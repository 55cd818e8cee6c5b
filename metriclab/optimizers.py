"""Optimizers, each over the parameter groups of a run.

Every group of the optimizer that comes out keeps its `name` and its `initial_lr`: the run sets
`lr = initial_lr * schedule(step)` before each step.

They are functions under the names of the classes that they build, and are named as the components of all kinds are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch.optim as torch_optimizers
from annotated_types import Ge, Gt, Le, Lt
from timm.optim.lars import Lars
from torch import nn
from torch.optim import Optimizer

from metriclab.core.parameter_groups import parameter_groups
from metriclab.errors import RecipeError
from metriclab.registry import register

__all__ = ["LARS", "SGD", "AdamW"]

LayerDecay = Annotated[float, Gt(0), Le(1)] | None


@register("optimizer", "sgd")
def SGD(
    modules: Mapping[str, nn.Module],
    /,
    *,
    learning_rate: Annotated[float, Gt(0)] = 0.05,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
    nesterov: bool = False,
    weight_decay: Annotated[float, Ge(0)] = 1e-4,
    groups: dict[str, Annotated[float, Ge(0)]] | None = None,
    layer_decay: LayerDecay = None,
) -> Optimizer:
    """Stochastic gradient descent with momentum. Biases, norms and scalars do not decay.

    Paper: Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013.

    Args:
        modules: by group name.
        learning_rate: at the height of the schedule.
        momentum: share of the last update that is kept, from 0 (none).
        nesterov: look ahead along the momentum.
        weight_decay: added to the gradient as weight_decay * w.
        groups: factors of the learning rate by group, such as {encoder = 0.1}.
        layer_decay: factor of the learning rate from each block of the encoder to the one before it, beside `groups`.

    Raises:
        RecipeError: for Nesterov's form without momentum, and as `parameter_groups` does.
    """
    _check_nesterov(nesterov, momentum)
    return torch_optimizers.SGD(
        _options(modules, groups, layer_decay, learning_rate, weight_decay),
        lr=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        fused=True,
    )


@register("optimizer", "adamw")
def AdamW(
    modules: Mapping[str, nn.Module],
    /,
    *,
    learning_rate: Annotated[float, Gt(0)] = 1e-3,
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9,
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999,
    epsilon: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Annotated[float, Ge(0)] = 0.01,
    groups: dict[str, Annotated[float, Ge(0)]] | None = None,
    layer_decay: LayerDecay = None,
) -> Optimizer:
    """Adam with decoupled weight decay. Biases, norms and scalars do not decay.

    Paper: Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.

    Args:
        modules: by group name.
        learning_rate: at the height of the schedule.
        beta1: memory of the gradient's mean.
        beta2: memory of its square.
        epsilon: added to the root of the square.
        weight_decay: each step shrinks w by learning rate * weight_decay * w.
        groups: factors of the learning rate by group, such as {encoder = 0.1}.
        layer_decay: factor of the learning rate from each block of the encoder to the one before it, beside `groups`.

    Raises:
        RecipeError: as `parameter_groups` does.
    """
    return torch_optimizers.AdamW(
        _options(modules, groups, layer_decay, learning_rate, weight_decay),
        lr=learning_rate,
        betas=(beta1, beta2),
        eps=epsilon,
        fused=True,
    )


@register("optimizer", "lars")
def LARS(
    modules: Mapping[str, nn.Module],
    /,
    *,
    learning_rate: Annotated[float, Gt(0)] = 0.3,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
    nesterov: bool = False,
    trust: Annotated[float, Gt(0)] = 1e-3,
    weight_decay: Annotated[float, Ge(0)] = 1e-6,
    groups: dict[str, Annotated[float, Ge(0)]] | None = None,
    layer_decay: LayerDecay = None,
) -> Optimizer:
    """SGD whose step for each weight tensor is in proportion to the norm of that tensor; for large batches.

    The update of a tensor w with gradient g is scaled by trust * |w| / (|g| + weight_decay * |w|). Biases, norms and
    scalars are neither scaled nor decayed. SimCLR scales the learning rate with the rows of a batch:
    0.3 * batch / 256, or 0.075 * sqrt(batch) for short training and small batches. As in torch's SGD, momentum is
    accumulated before the learning rate is applied, which differs from the paper only while the rate changes.

    Paper: You et al., Large Batch Training of Convolutional Networks, 2017 (arXiv 1708.03888), algorithm 1.

    Args:
        modules: by group name.
        learning_rate: at the height of the schedule.
        momentum: share of the last update that is kept, from 0 (none).
        nesterov: look ahead along the momentum.
        trust: the trust coefficient (eta in the paper).
        weight_decay: added to the gradient as weight_decay * w.
        groups: factors of the learning rate by group, such as {encoder = 0.1}.
        layer_decay: factor of the learning rate from each block of the encoder to the one before it, beside `groups`.

    Raises:
        RecipeError: for Nesterov's form without momentum, and as `parameter_groups` does.
    """
    _check_nesterov(nesterov, momentum)
    return Lars(
        _options(modules, groups, layer_decay, learning_rate, weight_decay, scaled_option="always_adapt"),
        lr=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        trust_coeff=trust,
    )


def _options(
    modules: Mapping[str, nn.Module],
    factors: Mapping[str, float] | None,
    layer_decay: float | None,
    learning_rate: float,
    weight_decay: float,
    *,
    scaled_option: str | None = None,
) -> list[dict[str, Any]]:
    """The groups as torch takes them; `scaled_option` is switched on where weights decay."""
    return [
        {
            "name": group.name,
            "params": group.parameters,
            "lr": learning_rate * group.factor,
            "initial_lr": learning_rate * group.factor,
            "weight_decay": weight_decay if group.decay else 0.0,
            **({scaled_option: group.decay} if scaled_option else {}),
        }
        for group in parameter_groups(modules, factors, layer_decay)
    ]


def _check_nesterov(nesterov: bool, momentum: float) -> None:
    if nesterov and momentum == 0:
        raise RecipeError(
            "optimizer.nesterov needs momentum", help="set optimizer.momentum = 0.9, or leave out nesterov"
        )
