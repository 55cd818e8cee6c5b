"""BYOL and SimSiam against their papers' formulas, written as loops, and what is easy to get wrong in them."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from metriclab.api import Batch, Network, RecipeError, build
from metriclab.testing import check_method

WIDTH, STEPS = 4, 8


class Flat(nn.Module):
    """A linear encoder of 3 x 4 x 4 images."""

    def __init__(self):
        super().__init__()
        self.out_features = 6
        self.linear = nn.Linear(48, 6)

    def forward(self, images):
        return self.linear(images.flatten(1))


def network(batch_norm=True):
    return Network(Flat(), build("head", "mlp", 6, hidden=5, embedding_dim=WIDTH, batch_norm=batch_norm))


def byol(**options):
    torch.manual_seed(0)
    return build("method", "byol", network(), STEPS, predictor_hidden=7, **options).double()


def simsiam(**options):
    torch.manual_seed(0)
    return build("method", "simsiam", network(), predictor_hidden=7, **options).double()


def batch(views=2, n=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = tuple(torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(views))
    return Batch(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), torch.arange(n), 0)


def cosine(one, other):
    return torch.dot(one, other) / one.norm() / other.norm()


def through(module, views, together):
    """What a module makes of each view: each by itself, as in the authors' code, or of all as one batch."""
    return module(torch.cat(views)) if together else torch.cat([module(view) for view in views])


def naive(method, images, targets, per_pair, together=False):
    """The mean over images and ordered pairs of views (v, w) of a function of prediction v and target w.

    As google-deepmind/deepmind-research (byol/byol_experiment.py, commit 4822a45) and facebookresearch/simsiam (commit
    39ac33e) do it, for two views: network and predictor see one view after the other.
    """
    n = len(images[0])
    z = through(lambda x: method.network(x).z, images, together)
    predictions = through(method.predictor, z.split(n), together)
    values = []
    for v in range(len(images)):
        for w in range(len(images)):
            for i in range(n if v != w else 0):
                values.append(per_pair(predictions[v * n + i], targets[w * n + i]))
    return sum(values) / len(values)


def gradients(method, loss):
    method.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in method.named_parameters() if parameter.grad is not None}


def loss_of(method, part):
    outputs = method(part)
    return method.objective(outputs, outputs)


def assert_same(ours, theirs, method):
    """Values and gradients."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    found, expected = gradients(method, ours), gradients(method, theirs)
    assert found.keys() == expected.keys()
    assert any(bool(gradient.any()) for gradient in found.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("together", [False, True])
def test_byol_is_the_papers_formula(views, together):
    method, part = byol(views_together=together), batch(views)
    with torch.no_grad():  # an online network that has moved away from its target
        for parameter in method.network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    targets = through(lambda x: method.target(x).z, part.views, together).detach()

    # Equation 2 with equation 1's normalised vectors, both directions added: twice the mean over directions.
    def squared(p, t):
        return ((p / p.norm() - t / t.norm()) ** 2).sum()

    expected = 2 * naive(method, part.views, targets, squared, together)
    assert_same(loss_of(method, part).loss, expected, method)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("together", [False, True])
def test_simsiam_is_the_papers_algorithm(views, together):
    method, part = simsiam(views_together=together), batch(views)
    # Without this stop of the gradient it collapses.
    targets = through(lambda x: method.network(x).z, part.views, together).detach()
    expected = naive(method, part.views, targets, lambda p, z: -cosine(p, z), together)
    assert_same(loss_of(method, part).loss, expected, method)


def test_simsiam_stops_the_gradient_of_its_targets_only():
    method, part = simsiam(), batch()
    stopped = gradients(method, loss_of(method, part).loss)
    stopped = {name: gradient.clone() for name, gradient in stopped.items()}
    targets = through(lambda x: method.network(x).z, part.views, together=False)
    whole = gradients(method, naive(method, part.views, targets, lambda p, z: -cosine(p, z)))
    torch.testing.assert_close(stopped["predictor.layers.0.weight"], whole["predictor.layers.0.weight"])
    assert not torch.allclose(stopped["network.encoder.linear.weight"], whole["network.encoder.linear.weight"])


def test_the_target_follows_the_network_with_a_momentum_that_rises_to_1():
    method = byol(momentum=0.9)
    target = [parameter.clone() for parameter in method.target.parameters()]
    for one, other in zip(method.network.parameters(), target, strict=True):
        assert torch.equal(one, other)
    for step in range(STEPS + 1):  # one more than the run has: its momentum is 1
        with torch.no_grad():
            for parameter in method.network.parameters():
                parameter.add_(torch.randn_like(parameter))
        outputs = method(batch(seed=step))
        momentum = 1 - (1 - 0.9) * (math.cos(math.pi * step / STEPS) + 1) / 2
        before, target = (
            target,
            [
                momentum * slow + (1 - momentum) * fast.detach()
                for slow, fast in zip(target, method.network.parameters(), strict=True)
            ],
        )
        method.after_step(outputs, step)
        for found, expected in zip(method.target.parameters(), target, strict=True):
            torch.testing.assert_close(found, nn.Parameter(expected, requires_grad=False), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(one, other) for one, other in zip(before, target, strict=True))


def test_no_gradient_and_no_optimizer_reaches_the_target():
    method = byol()
    assert not any(parameter.requires_grad for parameter in method.target.parameters())
    optimizer = build("optimizer", "adamw", dict(method.named_children()), weight_decay=0.5)
    optimized = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    assert optimized == {*method.network.parameters(), *method.predictor.parameters()}
    before = copy.deepcopy(dict(method.target.named_parameters()))
    loss_of(method, batch()).loss.backward()
    optimizer.step()
    for name, parameter in method.target.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_the_targets_batch_norm_sees_batches_and_is_not_averaged():
    method = byol(momentum=1.0)
    (statistics,) = (value for name, value in method.target.state_dict().items() if name.endswith("running_mean"))
    before = statistics.clone()
    outputs = method(batch())
    seen = statistics.clone()
    assert not torch.equal(seen, before)
    method.after_step(outputs, 0)
    assert torch.equal(statistics, seen)


@pytest.mark.parametrize("make", [byol, simsiam, partial(byol, views_together=True)])
@pytest.mark.parametrize("views", [2, 3])
def test_it_keeps_what_a_method_keeps_on_any_number_of_ranks(make, views):
    check_method(make(), batch(views))


def test_byol_trains_alike_on_ranks_without_batch_norm_and_goes_on_from_the_middle():
    method = build("method", "byol", network(batch_norm=False), STEPS, momentum=0.5, predictor_hidden=3)
    check_method(method, batch(), steps=5)


@pytest.mark.parametrize("make", [byol, simsiam])
def test_the_order_of_views_and_of_images_changes_nothing(make):
    part = batch(3)
    expected = loss_of(make(), part).loss
    turned = Batch(part.views[::-1], part.labels, part.items, part.positions, 0)
    torch.testing.assert_close(loss_of(make(), turned).loss, expected, rtol=1e-12, atol=1e-12)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    mixed = Batch(tuple(v[order] for v in part.views), part.labels, part.items[order], part.positions, 0)
    torch.testing.assert_close(loss_of(make(), mixed).loss, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [byol, simsiam])
@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_a_constant_network_is_seen_and_stays_finite(make, bias):
    method = make()
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if not name.startswith("predictor"):
                parameter.fill_(bias if name.endswith("bias") else 0.0)
    objective = loss_of(method, batch())
    assert float(objective.metrics["output_std"]) == pytest.approx(0, abs=1e-9)
    assert bool(objective.loss.isfinite())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(method, objective.loss).values())


@pytest.mark.parametrize("make", [byol, simsiam])
def test_outputs_that_point_everywhere_have_a_standard_deviation_of_1(make):
    method, part = make(), batch(n=2000)
    outputs = method(part)
    z = torch.randn(4000, WIDTH, dtype=torch.float64)
    everywhere = outputs._replace(projections=part.rows(z.chunk(2), labels=part.items))
    assert float(method.objective(outputs, everywhere).metrics["output_std"]) == pytest.approx(1, abs=0.02)
    per_channel = [(z[:, j] / z.norm(dim=1)).std(correction=0) for j in range(WIDTH)]
    by_hand = math.sqrt(WIDTH) * sum(map(float, per_channel)) / WIDTH
    assert float(method.objective(outputs, everywhere).metrics["output_std"]) == pytest.approx(by_hand)


@pytest.mark.parametrize("make", [byol, simsiam])
def test_views_together_are_normalised_by_other_statistics(make):
    part = batch(n=32)
    apart, together = make(), make(views_together=True)
    one, other = (gradients(method, loss_of(method, part).loss) for method in (apart, together))
    name = "network.encoder.linear.weight"
    assert not torch.allclose(one[name], other[name], rtol=1e-3)
    apart.eval(), together.eval()  # running statistics, the same in both: nothing is left of the difference
    together.load_state_dict(apart.state_dict())
    torch.testing.assert_close(loss_of(apart, part).loss, loss_of(together, part).loss)


@pytest.mark.parametrize("make", [byol, simsiam])
def test_one_image_alone_is_refused_where_views_are_normalised_apart(make):
    text = r"BatchNorm takes its statistics of one image alone.*\n  help: set sampler\.batch_size, and train\.chunk"
    with pytest.raises(RecipeError, match=text):
        make()(batch(n=1))


@pytest.mark.parametrize("make", [byol, simsiam])
def test_a_batch_of_one_image_is_finite(make):
    method = make(views_together=True)
    objective = loss_of(method, batch(n=1))
    assert bool(objective.loss.isfinite())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(method, objective.loss).values())


@pytest.mark.parametrize("make", [byol, simsiam])
def test_one_view_is_refused(make):
    with pytest.raises(RecipeError, match=r"here an image has one view\n  help: set views\.count = 2"):
        make()(batch(views=1))


def test_a_momentum_above_1_is_refused():
    with pytest.raises(RecipeError, match=r"momentum of method 'byol' must be float >= 0 and <= 1, not 1\.5"):
        byol(momentum=1.5)
