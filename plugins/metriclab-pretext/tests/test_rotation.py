"""Rotation prediction against its formula, written as loops, and through the conformance kit."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from metriclab.api import Batch, Network, RecipeError
from metriclab.testing import check_method
from metriclab_pretext import Rotation


def network(*, batch_norm: bool = False) -> Network:
    """Takes square images of 5 pixels."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(75, 6))
    head = nn.Sequential(nn.BatchNorm1d(6) if batch_norm else nn.Identity(), nn.Tanh(), nn.Linear(6, 4))
    encoder.out_features, head.out_features = 6, 4
    return Network(encoder, head)


def batch(n: int = 7, views: int = 1, shape: tuple[int, int] = (5, 5)) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = tuple(torch.rand(n, 3, *shape, generator=generator, dtype=torch.float64) for _ in range(views))
    return Batch(images, torch.full((n,), -1), torch.arange(n), torch.arange(n), 0)


def rotation(*, batch_norm: bool = False) -> Rotation:
    torch.manual_seed(0)
    return Rotation(network(batch_norm=batch_norm)).double()


def turned(image: torch.Tensor, turns: int) -> torch.Tensor:
    """Counter-clockwise, pixel by pixel: row i, column j comes from row j, column last - i."""
    for _ in range(turns):
        side = image.shape[1]
        result = torch.empty_like(image)
        for i in range(side):
            for j in range(side):
                result[:, i, j] = image[:, j, side - 1 - i]
        image = result
    return image


@pytest.mark.parametrize("views", [1, 2])
def test_value_and_gradient_are_the_papers(views):
    method, images = rotation(), batch(5, views)
    reference = copy.deepcopy(method)
    outputs = method(images)
    loss, metrics = method.objective(outputs, outputs)
    costs, right = [], []
    for view in images.views:
        for image in view:
            for turn in range(4):
                logits = reference.classifier(reference.network(turned(image, turn)[None]).z)[0]
                costs.append(torch.log(sum(torch.exp(logit) for logit in logits)) - logits[turn])
                right.append(max(range(4), key=logits.tolist().__getitem__) == turn)
    expected = sum(costs) / len(costs)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-10, atol=1e-12)
    assert float(metrics["rotation_accuracy"]) == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_keeps_what_a_method_keeps_on_any_number_of_ranks(batch_norm):
    check_method(rotation(batch_norm=batch_norm), batch(views=2))


def test_it_learns_which_way_is_up():
    method, images = rotation(), batch(8)
    optimizer = torch.optim.Adam(method.parameters(), 0.02)
    for _ in range(50):
        outputs = method(images)
        loss, metrics = method.objective(outputs, outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(metrics["rotation_accuracy"]) == 1


def test_images_that_look_alike_at_any_angle_teach_nothing():
    method, images = rotation(), batch(4)
    grey = replace(images, views=(torch.full_like(images.views[0], 0.5),))
    outputs = method(grey)
    loss, metrics = method.objective(outputs, outputs)
    assert float(metrics["rotation_accuracy"]) == 0.25
    assert float(loss.detach()) >= torch.tensor(4.0).log() - 1e-6


def test_logits_in_half_precision_are_compared_in_float32():
    method, images = rotation().float(), batch(4)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = method(replace(images, views=(images.views[0].float(),)))
    assert outputs.logits.dtype == torch.bfloat16
    assert method.objective(outputs, outputs).loss.dtype == torch.float32


def test_what_is_used_after_training_has_no_turn():
    method, images = rotation(), batch(3).views[0]
    assert torch.equal(method.network(images).h, method.network.encoder(images))


def test_views_that_are_not_square_are_refused():
    with pytest.raises(RecipeError, match=r'these are 4 x 6 pixels: .*\n  help: .* such as views.name = "simclr"'):
        rotation()(batch(shape=(4, 6)))
