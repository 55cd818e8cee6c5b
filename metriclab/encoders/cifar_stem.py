"""The first layers of a ResNet for small images."""

from __future__ import annotations

from timm.models.resnet import ResNet
from torch import nn

from metriclab.errors import RecipeError


def install_cifar_stem(network: nn.Module, name: str, in_chans: int) -> None:
    """A 3x3 convolution of stride 1 and no max pooling, in place of what a ResNet of timm begins with."""
    if not isinstance(network, ResNet):
        raise RecipeError(f"encoder.cifar_stem is for ResNets, '{name}' is none", help="leave out cifar_stem")
    stem = nn.Conv2d(in_chans, int(network.bn1.num_features), 3, padding=1, bias=False)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.add_module("conv1", stem)
    network.add_module("maxpool", nn.Identity())
