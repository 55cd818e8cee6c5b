"""BatchNorm over all ranks, against torch's own and against one process."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from metriclab.distributed import average_gradients
from metriclab.distributed.batch_norm import SynchronizedBatchNorm, synchronize_batch_norm
from metriclab.testing import Share, on_ranks, two_ranks

LAYERS = {
    "plain": (nn.BatchNorm1d(3), (6, 3)),
    "sequence": (nn.BatchNorm1d(3, momentum=None), (6, 3, 4)),
    "images": (nn.BatchNorm2d(3, eps=1e-3, momentum=0.3), (6, 3, 4, 5)),
    "without scale": (nn.BatchNorm2d(3, affine=False), (6, 3, 2, 2)),
    "without running statistics": (nn.BatchNorm1d(3, track_running_stats=False), (6, 3)),
}


def layer_and_input(name):
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).double()
    if layer.weight is not None:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layer, 3 * torch.randn(shape, dtype=torch.float64) + 2


@pytest.mark.parametrize("name", LAYERS)
def test_in_one_process_it_is_torchs_layer(name):
    layer, x = layer_and_input(name)
    ours = SynchronizedBatchNorm(copy.deepcopy(layer))
    for training in (True, True, False):
        for one in (layer, ours):
            one.train(training)
        left, right = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected, found = layer(left), ours(right)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        expected.sin().sum().backward()
        found.sin().sum().backward()
        torch.testing.assert_close(right.grad, left.grad, atol=1e-12, rtol=0)
    assert ours.state_dict().keys() == layer.state_dict().keys()
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, atol=1e-12, rtol=0)
    for parameter, expected in zip(ours.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, atol=1e-12, rtol=0)


def test_a_large_mean_costs_no_digits():
    x = torch.randn(64, 2) + 1e4
    ours = SynchronizedBatchNorm(nn.BatchNorm1d(2))
    ours(x)
    torch.testing.assert_close(ours.running_var, 0.9 + 0.1 * x.double().var(0).float(), atol=1e-3, rtol=0)


def test_half_precision_is_summed_and_scaled_in_float32():
    x = torch.randn(4096, 2) * 0.1 + 4
    layer = nn.BatchNorm1d(2)
    found = SynchronizedBatchNorm(copy.deepcopy(layer))(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, layer(x.bfloat16().float()).bfloat16(), atol=0.02, rtol=0.01)


def test_every_batch_norm_of_a_network_is_replaced_and_nothing_else():
    network = timm.create_model("test_resnet", num_classes=0).double()
    ours = synchronize_batch_norm(copy.deepcopy(network))
    left = [m for m in ours.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert not left
    assert ours.state_dict().keys() == network.state_dict().keys()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(images), network(images), atol=1e-10, rtol=0)


def step(share: Share, network: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    network = synchronize_batch_norm(network)
    part = share.of(len(x))
    # The objective is the mean over ranks of what each returns: here ranks x local sum / all rows.
    loss = share.ranks * network(x[part]).sin().square().sum() / len(x)
    loss.backward()
    average_gradients(network.parameters())
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return {**gradients, **{f"buffer {name}": b for name, b in network.named_buffers()}}


def test_unequal_ranks_are_one_process():
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    two_ranks(step, network, torch.randn(7, 5, dtype=torch.float64))


def evaluate_as_many_batches_as_rows(share: Share) -> list:
    layer = synchronize_batch_norm(nn.BatchNorm1d(3, track_running_stats=False)).eval()
    return [layer(torch.randn(4, 3)).mean() for _ in range(1 + share.rank)]


def test_without_running_statistics_no_rank_waits_for_another_in_evaluation():
    for means in on_ranks(evaluate_as_many_batches_as_rows, 2):
        assert all(abs(mean) < 1e-6 for mean in means)
