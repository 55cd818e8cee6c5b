"""Barlow Twins and VICReg against their papers' formulas, written as loops, and what is easy to get wrong in them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metriclab.api import Batch, Network, RecipeError, build
from metriclab.testing import check_method

METHODS = ["barlow-twins", "vicreg"]


class Flat(nn.Module):
    """A linear encoder of 3 x 4 x 4 images."""

    def __init__(self):
        super().__init__()
        self.out_features = 6
        self.linear = nn.Linear(48, 6)

    def forward(self, images):
        return self.linear(images.flatten(1))


def method(name, **options):
    torch.manual_seed(0)
    network = Network(Flat(), build("head", "mlp", 6, hidden=5, embedding_dim=4))
    return build("method", name, network, **options).double()


def batch(views=2, n=7):
    generator = torch.Generator().manual_seed(1)
    images = tuple(torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(views))
    return Batch(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), torch.arange(n), 0)


def embeddings(n=6, views=2, d=3):
    generator = torch.Generator().manual_seed(2)
    # Off centre, correlated, and of standard deviations below and above 1: every part of each loss has a say.
    z = torch.randn(n, views, d, generator=generator, dtype=torch.float64) * torch.tensor([0.4, 0.8, 2.0])[:d]
    return z + z.roll(1, 2) / 2 + 3


def loss_of(method, z):
    return method.objective(z, z)


def value_and_gradient(function, z):
    z = z.clone().requires_grad_()
    value = function(z)
    value.backward()
    return value.detach(), z.grad


def centred(column):
    mean = sum(column) / len(column)
    return [value - mean for value in column]


def pairs(views):
    return [(a, b) for a in range(views) for b in range(a)]


def naive_barlow(z, weight, epsilon):
    """Equations 1 and 2, the mean over pairs of views; to each variance is added what BatchNorm adds."""
    n, views, d = z.shape
    costs = []
    for a, b in pairs(views):
        for i in range(d):
            for j in range(d):
                first, second = (centred([z[k, v, c] for k in range(n)]) for v, c in ((a, i), (b, j)))
                product = sum(x * y for x, y in zip(first, second, strict=True))
                norms = [torch.sqrt(sum(x * x for x in column) + n * epsilon) for column in (first, second)]
                correlation = product / norms[0] / norms[1]
                costs.append((1 - correlation) ** 2 if i == j else weight * correlation**2)
    return sum(costs) / len(pairs(views))


def naive_vicreg(z, invariance, variance, covariance):
    """Equations 1 to 6 with the mean over dimensions of algorithm 1 in the first part; the mean over pairs of views."""
    n, views, d = z.shape

    def v(view):
        columns = [centred([z[k, view, j] for k in range(n)]) for j in range(d)]
        deviations = [torch.sqrt(sum(x * x for x in column) / (n - 1) + 1e-4) for column in columns]
        return sum(torch.clamp(1 - s, min=0) for s in deviations) / d

    def c(view):
        columns = [centred([z[k, view, j] for k in range(n)]) for j in range(d)]
        total = 0
        for i in range(d):
            for j in range(d):
                if i != j:
                    total = total + (sum(x * y for x, y in zip(columns[i], columns[j], strict=True)) / (n - 1)) ** 2
        return total / d

    costs = []
    for a, b in pairs(views):
        s = sum((z[k, a, j] - z[k, b, j]) ** 2 for k in range(n) for j in range(d)) / n / d
        costs.append(invariance * s + variance * (v(a) + v(b)) + covariance * (c(a) + c(b)))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("views", [2, 3])
def test_barlow_twins_is_the_papers_formula(views):
    z, barlow = embeddings(views=views), method("barlow-twins", redundancy_weight=0.3)
    found, gradient = value_and_gradient(lambda z: loss_of(barlow, z).loss, z)
    expected, by_loops = value_and_gradient(lambda z: naive_barlow(z, 0.3, 1e-5), z)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, by_loops, rtol=1e-10, atol=1e-12)
    # Where variances are large, what is added to them is nothing, and the paper's formula is left.
    large = 1e7 * z
    torch.testing.assert_close(loss_of(barlow, large).loss, naive_barlow(large, 0.3, 0.0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("views", [2, 3])
def test_vicreg_is_the_papers_formula(views):
    z = embeddings(views=views)
    vicreg = method("vicreg", invariance_weight=3.0, variance_weight=5.0, covariance_weight=0.7)
    found, gradient = value_and_gradient(lambda z: loss_of(vicreg, z).loss, z)
    expected, by_loops = value_and_gradient(lambda z: naive_vicreg(z, 3.0, 5.0, 0.7), z)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, by_loops, rtol=1e-10, atol=1e-12)


def test_the_variance_as_a_mean_is_the_authors_code():
    """facebookresearch/vicreg, main_vicreg.py at commit b42aa23, with its default weights: the mean of the squared
    difference, half the mean shortfall of each view's standard deviations, each view's covariances over d."""
    z = embeddings()
    n, d = len(z), z.shape[2]

    def code(z):
        deviation, covariance = 0, 0
        for view in (z[:, 0], z[:, 1]):
            centred = view - view.mean(0)
            deviation = deviation + torch.relu(1 - (view.var(0) + 0.0001).sqrt()).mean() / 2
            matrix = centred.T @ centred / (n - 1)
            covariance = covariance + sum(matrix[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
        return 25 * ((z[:, 0] - z[:, 1]) ** 2).mean() + 25 * deviation + covariance

    expected, of_code = value_and_gradient(code, z)
    # With the paper's sum over views, half the weight is the same.
    for options in ({"variance_over_views": "mean"}, {"variance_weight": 12.5}):
        given = method("vicreg", **options)
        found, gradient = value_and_gradient(lambda z, given=given: loss_of(given, z).loss, z)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, of_code, rtol=1e-10, atol=1e-12)
    assert float(loss_of(method("vicreg"), z).loss) > float(expected) + 1  # the paper's


def test_the_parts_of_the_losses_are_logged():
    z = embeddings()
    loss, logged = loss_of(method("barlow-twins", redundancy_weight=0.3), z)
    assert float(logged["on_diagonal"] + 0.3 * logged["off_diagonal"]) == pytest.approx(float(loss))
    loss, logged = loss_of(method("vicreg"), z)
    weighted = 25 * logged["invariance"] + 25 * logged["variance"] + logged["covariance"]
    assert float(weighted) == pytest.approx(float(loss))


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_it_keeps_what_a_method_keeps_on_any_number_of_ranks(name, views):
    check_method(method(name), batch(views))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_images_stay_aligned_with_their_views(name, together):
    given, part = method(name, views_together=together), batch(3)
    outputs = given(part)
    apart = [given.network(view).z for view in part.views]  # as in the code of both papers
    of_one_pass = given.network(torch.cat(part.views)).z.chunk(3)
    for view, z in enumerate(of_one_pass if together else apart):
        torch.testing.assert_close(outputs[:, view], z)
    assert not torch.allclose(of_one_pass[0], apart[0], rtol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_one_image_alone_is_refused_where_views_are_normalised_apart(name):
    text = r"BatchNorm takes its statistics of one image alone.*\n  help: set sampler\.batch_size, and train\.chunk"
    with pytest.raises(RecipeError, match=text):
        method(name)(batch(n=1))
    assert method(name, views_together=True)(batch(n=1)).isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_views_and_of_images_changes_nothing(name):
    given, z = method(name), embeddings(views=3)
    expected = loss_of(given, z).loss
    for changed in (z.flip(1), z.roll(1, 1), z[torch.tensor([3, 0, 5, 1, 4, 2])]):
        torch.testing.assert_close(loss_of(given, changed).loss, expected, rtol=1e-12, atol=1e-12)
    assert abs(float(loss_of(given, torch.stack([z[:, 0], z[:, 1].roll(1, 0)], 1)).loss) - float(expected)) > 1e-3


DEAD = {
    "equal rows": torch.ones(5, 2, 3, dtype=torch.float64),
    "zero rows": torch.zeros(5, 2, 3, dtype=torch.float64),
    "one dimension without variance": embeddings() * torch.tensor([1.0, 0.0, 1.0]),
    "two equal dimensions": embeddings()[:, :, [0, 0, 1]],
    "equal views": embeddings()[:, [0, 0]],
    "one image": embeddings(n=1),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", DEAD)
@pytest.mark.parametrize("name", METHODS)
def test_value_and_gradient_are_finite_without_variance(name, case, dtype):
    given = method(name)
    value, gradient = value_and_gradient(lambda z: loss_of(given, z).loss, DEAD[case].to(dtype))
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())
    assert value.dtype == dtype


def test_a_collapse_costs_and_is_logged():
    loss, logged = loss_of(method("barlow-twins"), torch.ones(5, 2, 3, dtype=torch.float64))
    assert float(loss) == float(logged["on_diagonal"]) == 3
    assert float(logged["spread"]) == pytest.approx(0, abs=1e-7)
    loss, logged = loss_of(method("vicreg"), torch.ones(5, 2, 3, dtype=torch.float64))
    assert float(loss) == pytest.approx(25 * 2 * (1 - math.sqrt(1e-4)))
    assert float(logged["spread"]) == pytest.approx(0, abs=1e-7)
    everywhere = torch.randn(2000, 2, 3, generator=torch.Generator().manual_seed(0))
    assert float(loss_of(method("vicreg"), everywhere).metrics["spread"]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", METHODS)
def test_a_row_that_is_not_a_number_is_seen(name):
    z = embeddings()
    z[2, 1, 0] = torch.nan
    assert bool(loss_of(method(name), z).loss.isnan())


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_raised(name):
    given, part = method(name).float(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = given(Batch(tuple(v.float() for v in part.views), part.labels, part.items, part.positions, 0))
    assert outputs.dtype == torch.float32


@pytest.mark.parametrize("name", METHODS)
def test_one_view_is_refused(name):
    with pytest.raises(RecipeError, match=r"here an image has one view\n  help: set views\.count = 2"):
        method(name)(batch(views=1))
