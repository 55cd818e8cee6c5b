"""SwAV against its formulas, written as loops, and through the conformance kit."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from metriclab.api import Batch, Network, RecipeError, build
from metriclab.testing import check_method
from metriclab_swav import SwAV
from metriclab_swav.sinkhorn import sinkhorn

T, EPSILON, ITERATIONS = 0.2, 0.3, 3
SETTINGS = {"prototypes": 5, "temperature": T, "epsilon": EPSILON, "iterations": ITERATIONS}


def network(*, batch_norm: bool = False) -> Network:
    """Takes images of any size."""
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6))
    head = nn.Sequential(nn.BatchNorm1d(6) if batch_norm else nn.Identity(), nn.Tanh(), nn.Linear(6, 4))
    encoder.out_features, head.out_features = 6, 4
    return Network(encoder, head)


def batch(n: int = 7, large: int = 2, small: int = 2, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    sides = [6] * large + [4] * small
    views = tuple(torch.randn(n, 3, side, side, generator=generator, dtype=torch.float64) for side in sides)
    return Batch(views, torch.full((n,), -1), torch.arange(n) % 5, torch.arange(n), step)


def swav(*, queue: int = 0, batch_norm: bool = False, **options) -> SwAV:
    torch.manual_seed(0)
    memory = build("memory", "ring", 4, torch.arange(0), size=queue) if queue else None
    return SwAV(network(batch_norm=batch_norm), memory=memory, **{**SETTINGS, **options}).double()


def take_step(method: SwAV, images: Batch, rate: float = 0.1) -> None:
    method.zero_grad()
    outputs = method(images)
    method.objective(outputs, outputs).loss.backward()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.sub_(rate * parameter.grad)
        method.after_step(outputs, images.step)


def naive_codes(rows, prototypes):
    """Algorithm 1 of the appendix, cell by cell: Q is prototypes by rows, its marginals 1/K and 1/B in the limit."""
    k, b = len(prototypes), len(rows)
    q = [
        [math.exp(sum(a * c for a, c in zip(row, proto, strict=True)) / EPSILON) for row in rows]
        for proto in prototypes
    ]
    whole = sum(map(sum, q))
    q = [[value / whole for value in line] for line in q]
    for _ in range(ITERATIONS):
        q = [[value / (sum(line) * k) for value in line] for line in q]
        columns = [sum(q[i][j] for i in range(k)) for j in range(b)]
        q = [[q[i][j] / (columns[j] * b) for j in range(b)] for i in range(k)]
    return [[q[i][j] * b for i in range(k)] for j in range(b)]


def naive_loss(z, prototypes, code_views, queue=None):
    """Equations 1 and 2 over raw embeddings z[view][image]; `queue[view]` holds unit rows of earlier batches."""
    unit = [[row / row.norm() for row in view] for view in z]
    codes = []
    for view in range(code_views):
        earlier = [] if queue is None else queue[view]
        rows = [row.tolist() for row in (*earlier, *unit[view])]
        codes.append(naive_codes(rows, prototypes.tolist())[len(earlier) :])
    costs = []
    for coded in range(code_views):
        for view in range(len(z)):
            if view == coded:
                continue
            for image, row in enumerate(unit[view]):
                logits = [torch.dot(row, prototype) / T for prototype in prototypes]
                below = torch.log(sum(torch.exp(logit) for logit in logits))
                costs.append(-sum(q * (logit - below) for q, logit in zip(codes[coded][image], logits, strict=True)))
    return sum(costs) / len(costs)


@pytest.mark.parametrize(("large", "small", "code_views"), [(2, 0, 2), (2, 2, 2), (1, 2, 1), (3, 1, 2), (3, 0, 3)])
def test_value_and_gradient_are_the_papers(large, small, code_views):
    method, images = swav(code_views=code_views), batch(5, large, small)
    reference = copy.deepcopy(method)
    outputs = method(images)
    loss = method.objective(outputs, outputs).loss
    expected = naive_loss([reference.network(view).z for view in images.views], reference.prototypes.weight, code_views)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-10, atol=1e-12)


def test_the_queue_holds_each_code_views_own_rows_of_earlier_batches():
    # 12 rows are 3 batches of 2 code views of 2 images: the fourth batch has pushed the first one out.
    method, queue = swav(queue=12, queue_start=1), [[], []]
    for step in range(5):
        images = batch(2, 2, 1, step)
        outputs = method(images)
        objective = method.objective(outputs, outputs)
        z = [method.network(view).z for view in images.views]
        held = [rows[-6:] for rows in queue]
        expected = naive_loss(z, method.prototypes.weight, 2, held if step >= 1 else None)
        torch.testing.assert_close(objective.loss, expected, rtol=1e-12, atol=1e-12)
        assert float(objective.metrics["memory_filled"]) == pytest.approx(min(1.0, step * 4 / 12))
        for rows, view in zip(queue, z, strict=False):
            rows += [(row / row.norm()).detach() for row in view]
        take_step(method, images)


def test_the_queue_counts_from_its_step_on():
    with_queue, without = swav(queue=12, queue_start=2), swav()
    for step in range(3):
        images = batch(3, step=step)
        same = []
        for method in (with_queue, without):
            outputs = method(images)
            same.append(method.objective(outputs, outputs).loss)
            take_step(method, images)
        assert torch.equal(*same) == (step < 2)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("small", [0, 2])
def test_it_keeps_what_a_method_keeps_on_any_number_of_ranks(batch_norm, small):
    check_method(swav(batch_norm=batch_norm), batch(small=small))


def test_with_a_queue_and_frozen_prototypes_too():
    check_method(swav(queue=20, queue_start=1, freeze_prototypes=2), batch(), steps=4)


def test_rows_are_spread_evenly_over_the_prototypes():
    scores = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 2
    codes = sinkhorn(scores, torch.ones(30, dtype=torch.bool), epsilon=0.3, iterations=100)
    torch.testing.assert_close(codes.sum(1), torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 30 / 4, dtype=torch.float64))
    # What the paper solves: Q = diag(u) exp(scores / epsilon) diag(v), so the logarithms differ by a row and a column.
    rest = codes.log() - scores / 0.3
    cross = rest - rest[:1] - rest[:, :1] + rest[:1, :1]
    torch.testing.assert_close(cross, torch.zeros_like(cross), rtol=0, atol=1e-10)


def test_rows_that_do_not_count_have_no_say():
    scores = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    counted = torch.arange(9) < 6
    alone = sinkhorn(scores[:6], counted[:6], 0.1, 3)
    torch.testing.assert_close(sinkhorn(scores, counted, 0.1, 3)[:6], alone)


def test_a_tiny_epsilon_stays_finite_and_gives_hard_codes():
    scores = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = sinkhorn(scores, torch.ones(8, dtype=torch.bool), epsilon=1e-3, iterations=50)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(8))
    assert codes.amax(1).mean() > 0.9


def test_the_order_of_images_does_not_matter():
    method, images = swav(), batch(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = replace(
        images,
        views=tuple(view[order] for view in images.views),
        items=images.items[order],
        positions=images.positions[order],
    )
    losses = [method.objective(outputs, outputs).loss for outputs in map(method, (images, other))]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


def test_a_view_that_only_has_a_code_gets_no_gradient():
    method, images = swav(code_views=1), batch(4, 1, 1)
    first, second = (view.clone().requires_grad_() for view in images.views)
    outputs = method(replace(images, views=(first, second)))
    method.objective(outputs, outputs).loss.backward()
    assert (first.grad == 0).all()
    assert (second.grad != 0).any()


def test_prototypes_have_norm_1_and_are_frozen_at_first():
    method = swav(freeze_prototypes=2)
    start = nn.functional.normalize(method.prototypes.weight.detach())  # in float64, after a start in float32
    for step in range(4):
        take_step(method, batch(step=step), rate=1.0)
        weight = method.prototypes.weight.detach()
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(5, dtype=torch.float64))
        assert torch.allclose(weight, start, rtol=0, atol=1e-12) == (step < 2)


def test_collapse_shows_in_the_metrics():
    method, images = swav(), batch()
    outputs = method(images)
    healthy = method.objective(outputs, outputs).metrics
    assert 2 / 5 <= healthy["prototypes_used"] <= 1
    assert healthy["code_entropy"] < 0.97
    for parameter in method.network.encoder.parameters():
        nn.init.zeros_(parameter)
    outputs = method(images)
    loss, collapsed = method.objective(outputs, outputs)
    assert float(collapsed["prototypes_used"]) == pytest.approx(1 / 5)
    assert float(collapsed["code_entropy"]) == pytest.approx(1)
    assert float(loss.detach()) >= math.log(5) - 1e-12  # no better than guessing


def test_mistakes_are_refused_with_their_repair():
    with pytest.raises(RecipeError, match=r"an image has 1\n  help: set views.count to at least 2"):
        swav()(batch(3, 1, 0))
    with pytest.raises(RecipeError, match=r"codes of 3 views .* an image has 2\n  help: set views.count to at least 3"):
        swav(code_views=3)(batch(3, 2, 0))
    with pytest.raises(RecipeError, match=r'queue_start = 5 .*\n  help: add \[memory\] with name = "ring"'):
        swav(queue_start=5)
    with pytest.raises(RecipeError, match=r'learned rows of its own\n  help: set memory.name = "ring"'):
        SwAV(network(), memory=build("memory", "proxies", 4, torch.arange(3)))
