"""What a plugin's encoder and head give is looked at whenever they are called."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from metriclab.core.promises import check_features
from metriclab.recipe import Recipe


def hold_network(recipe: Recipe, method: nn.Module) -> list[RemovableHandle]:
    """From now on a PluginError names the encoder or the head whose features are not as wide as it says.

    Returns:
        what to remove when that is no longer wanted.
    """

    def watch(kind: str) -> RemovableHandle:
        def look(module: nn.Module, given: tuple[Tensor, ...], features: Tensor) -> None:
            recipe.components[kind].definition.hold(check_features, module, features, len(given[0]), "for one image")

        return method.get_submodule(f"network.{kind}").register_forward_hook(look)

    return [watch("encoder"), watch("head")]
