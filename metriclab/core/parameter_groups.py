"""Parameter groups: which parameters an optimizer gets, at which learning rate, and which of them decay."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from metriclab.errors import RecipeError

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


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
    modules: Mapping[str, nn.Module], factors: Mapping[str, float] | None = None
) -> list[ParameterGroup]:
    """The trainable parameters of the modules, those with and those without weight decay apart.

    Biases, the parameters of normalisation layers, and anything with fewer than two dimensions (scales, temperatures)
    do not decay. A parameter that several modules share belongs to the first of them, so a module that contains others
    is named after them.

    Args:
        modules: by the name of their group, in the order of the groups.
        factors: of the learning rate, by the name of a group; 1 for those not named.

    Raises:
        RecipeError: for a factor that names no module, and where nothing at all can be trained.
    """
    factors = factors or {}
    _check_factors(modules, factors)
    groups: list[ParameterGroup] = []
    seen: set[nn.Parameter] = set()
    for name, module in modules.items():
        split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for part in module.modules():
            for own_name, parameter in part.named_parameters(recurse=False):
                if parameter.requires_grad and parameter not in seen:
                    seen.add(parameter)
                    split[_decays(part, own_name, parameter)].append(parameter)
        factor = factors.get(name, 1.0)
        groups += [ParameterGroup(name, parameters, decay, factor) for decay, parameters in split.items() if parameters]
    if not groups:
        raise RecipeError(
            f"there is nothing to train: {', '.join(modules)} have no trainable parameter",
            help='set encoder.trainable = "all", or a head with parameters, or train.steps = 0',
        )
    return groups


def _decays(owner: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() >= 2 and not name.endswith("bias") and not isinstance(owner, _NORMS)


def _check_factors(modules: Mapping[str, nn.Module], factors: Mapping[str, float]) -> None:
    for name in factors:
        if name not in modules:
            close = difflib.get_close_matches(name, list(modules), n=1)
            raise RecipeError(
                f"optimizer.groups has no group '{name}'; the groups of this run are {', '.join(modules)}",
                help=f"did you mean '{close[0]}'?" if close else f"leave out '{name}'",
            )
