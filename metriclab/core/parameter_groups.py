"""Parameter groups: which parameters an optimizer gets, at which learning rate, and which of them decay."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from metriclab.errors import RecipeError

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that are treated alike.

    Attributes:
        name: the module they belong to: "encoder", "head", ...
        parameters: each of them in this group only.
        decay: whether weight decay applies.
        factor: multiplies the learning rate.
    """

    name: str
    parameters: list[nn.Parameter]
    decay: bool
    factor: float


def parameter_groups(
    modules: Mapping[str, nn.Module], factors: Mapping[str, float] | None = None, layer_decay: float | None = None
) -> list[ParameterGroup]:
    """The trainable parameters of the modules, those with and those without weight decay apart.

    With `layer_decay`, those of an encoder are apart block by block, its last block first: the learning rate of the
    block k before the last is that of the encoder times layer_decay^k.

    Biases, the parameters of normalisation layers, and anything with fewer than two dimensions (scales, temperatures)
    do not decay. A parameter that several modules share belongs to the first of them, so a module that contains others
    is named after them.

    Args:
        modules: by the name of their group, in the order of the groups.
        factors: of the learning rate, by the name of a group; 1 for those not named.
        layer_decay: of the learning rate from each block of an encoder to the one before it.

    Raises:
        RecipeError: for a factor that names no module, for `layer_decay` where no module has `parameter_blocks`, and
            where nothing at all can be trained.
    """
    factors = factors or {}
    _check_factors(modules, factors)
    scales = {} if layer_decay is None else _scales(modules, layer_decay)
    groups: list[ParameterGroup] = []
    seen: set[nn.Parameter] = set()
    for name, module in modules.items():
        split: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for part in module.modules():
            for own_name, parameter in part.named_parameters(recurse=False):
                if parameter.requires_grad and parameter not in seen:
                    seen.add(parameter)
                    kind = scales.get(parameter, 1.0), _decays(part, own_name, parameter)
                    split.setdefault(kind, []).append(parameter)
        factor = factors.get(name, 1.0)
        kinds = sorted(split, reverse=True)
        groups += [ParameterGroup(name, split[scale, decay], decay, factor * scale) for scale, decay in kinds]
    if not groups:
        raise RecipeError(
            f"there is nothing to train: {', '.join(modules)} have no trainable parameter",
            help='set encoder.trainable = "all", or a head with parameters, or train.steps = 0',
        )
    return groups


def _scales(modules: Mapping[str, nn.Module], layer_decay: float) -> dict[nn.Parameter, float]:
    """By parameter, how much slower it learns than the last block of its encoder."""
    scales: dict[nn.Parameter, float] = {}
    for module in modules.values():
        blocks: Any = getattr(module, "parameter_blocks", list)
        for distance, block in enumerate(reversed(blocks())):
            scales |= dict.fromkeys(block, layer_decay**distance)
    if not any(parameter.requires_grad for parameter in scales):
        raise RecipeError(
            f"optimizer.layer_decay = {layer_decay} needs an encoder that trains and tells its blocks",
            help="leave it out, or set optimizer.groups = {encoder = 0.1}",
        )
    return scales


def _decays(owner: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() >= 2 and not name.endswith("bias") and not isinstance(owner, NORMS)


def _check_factors(modules: Mapping[str, nn.Module], factors: Mapping[str, float]) -> None:
    for name in factors:
        if name not in modules:
            close = difflib.get_close_matches(name, list(modules), n=1)
            raise RecipeError(
                f"optimizer.groups has no group '{name}'; the groups of this run are {', '.join(modules)}",
                help=f"did you mean '{close[0]}'?" if close else f"leave out '{name}'",
            )
