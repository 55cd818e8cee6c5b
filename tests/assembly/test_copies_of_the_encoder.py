"""Copies that a method keeps of its encoder: they behave as the encoder does, and train as the method says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metriclab.assembly.learning_rates import start_step
from metriclab.core.network import Network
from metriclab.heads import NoHead
from metriclab.registry import build


class Slow(nn.Module):
    """What BYOL and MoCo keep: a copy of the network, and one that is always in evaluation mode; and one encoder."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.target, self.keys = copy.deepcopy(network).requires_grad_(False), copy.deepcopy(network)
        self.teacher = copy.deepcopy(network.encoder).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True):
        super().train(mode)
        self.keys.eval()
        return self


def modes(module: nn.Module) -> dict[str, bool]:
    return {name: part.training for name, part in module.named_modules()}


@pytest.mark.parametrize("trainable", ["none", "last:1", "norms"])
def test_copies_stand_still_as_long_as_the_encoder_does(trainable):
    encoder = build("encoder", "timm", model="test_resnet", trainable=trainable, unfreeze_at=2)
    method = Slow(Network(encoder, NoHead(encoder.out_features)))
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    for group in optimizer.param_groups:
        group["initial_lr"] = 1.0
    norms = {}
    for step in (0, 1, 2, 3, 0):  # the last as in a loop that begins anew
        start_step(method, optimizer, lambda step: 1.0, step)
        assert modes(method.target) == modes(method.network)
        assert modes(method.teacher) == modes(encoder)
        assert not any(modes(method.keys).values())
        assert not any(parameter.requires_grad for parameter in method.target.parameters())
        assert all(parameter.requires_grad for parameter in method.keys.parameters())
        norms[step] = method.target.get_submodule("encoder.model.bn1").training
    assert norms == {0: trainable == "norms", 1: trainable == "norms", 2: True, 3: True}
