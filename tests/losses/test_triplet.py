"""The triplet loss against loops over triplets, from Schroff et al. 2015 and Hermans et al. 2017."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import Tensor

from metriclab.core.rows import Rows, concatenate, rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.registry import build
from tests.support.loss_loops import agree, agree_in_lower_precision, mean, partners


def by_loops(anchors: Rows, references: Rows, margin: float, soft: bool, negatives: str, power: int = 2) -> float:
    """The mean cost of the chosen triplets."""
    costs = []
    for a in range(len(anchors)):
        label = int(anchors.labels[a])
        far = [math.dist(anchors.z[a].tolist(), r.tolist()) ** power for r in references.z]
        others = [j for j in range(len(references)) if int(references.ids[j]) != int(anchors.ids[a])]
        positives = [far[j] for j in others if int(references.labels[j]) == label >= 0]
        apart = [far[j] for j in others if int(references.labels[j]) != label and int(references.labels[j]) >= 0]
        for d_ap in positives:
            costs += costs_of(d_ap, apart, margin, soft, negatives)
    return math.fsum(costs) / max(1, len(costs))


def costs_of(d_ap, apart, margin, soft, negatives):
    if negatives == "semihard-or-farthest" and apart and max(apart) <= d_ap:
        apart = [max(apart)]
    elif negatives.startswith("semihard"):
        inside = [d_an for d_an in apart if d_ap < d_an < d_ap + margin]
        apart = [min(inside)] if inside else []
    if negatives == "hardest":
        apart = [min(apart)] if apart else []
    excess = [d_ap - d_an + margin for d_an in apart]
    return [math.log1p(math.exp(x)) for x in excess] if soft else [x for x in excess if x > 0]


NEGATIVES = ["all", "semihard", "semihard-or-farthest", "hardest"]


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.5])
@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, -1, 0, -1, 3, 0], [0, 0, 1], [0, 1], [2, 2], [-1, 0, 0]])
def test_the_formula(negatives, power, soft, margin, labels):
    loss = build("loss", "triplet", margin=margin, soft=soft, squared=power == 2, negatives=negatives)
    batch = rows(torch.randn(len(labels), 3, dtype=torch.float64), torch.tensor(labels))
    memory = concatenate([rows(torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, -1, 5, 0, 2])), batch])
    for references in (batch, memory):
        with forced_tile_cells(30):
            value = loss(batch, references)
        assert float(value) == pytest.approx(by_loops(batch, references, margin, soft, negatives, power), abs=1e-12)


def by_cosines(margin, soft, negatives):
    """The same from cosines alone, differentiable; those within rounding of each other are equal."""

    def loss(anchors, references):
        costs = []
        for alike, apart in partners(anchors, references):
            for s in alike:
                chosen = apart
                if negatives == "semihard":
                    inside = [x for x in apart if s - margin / 2 < x < s - 1e-6]
                    chosen = [max(inside, key=Tensor.item)] if inside else []
                if negatives == "hardest":
                    chosen = [max(apart, key=Tensor.item)] if apart else []
                excess = [2 * (x - s) + margin for x in chosen]
                costs += [torch.logaddexp(x, 0 * x) for x in excess] if soft else [x for x in excess if x > 0]
        return mean(costs)

    return loss


@pytest.mark.parametrize("negatives", ["all", "semihard", "hardest"])
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_on_every_kind_of_labels_and_in_lower_precision(negatives, soft):
    loss, loops = build("loss", "triplet", margin=0.8, soft=soft, negatives=negatives), by_cosines(0.8, soft, negatives)
    agree(loss, loops)
    agree_in_lower_precision(loss, loops, 0.5)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient(negatives, squared, soft):
    loss = build("loss", "triplet", margin=0.8, soft=soft, squared=squared, negatives=negatives)
    labels = torch.tensor([0, 1, 0, 2, 1, 0, -1, 2])
    ids = torch.arange(8)
    z = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)

    def value(z):
        batch = rows(z, labels, ids=ids)
        return loss(batch[:5], batch)

    assert torch.autograd.gradcheck(value, z)


def test_float32_sums_many_triplets_right():
    torch.manual_seed(2)
    z, labels = torch.randn(600, 8), torch.randint(3, (600,))
    single, double = (build("loss", "triplet")(batch, batch) for batch in (rows(z, labels), rows(z.double(), labels)))
    assert float(single) == pytest.approx(float(double), rel=1e-5)


def test_nothing_is_chosen_where_all_is_well():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    batch = rows(z, torch.tensor([0, 0, 1, 1]))
    for negatives in ("all", "semihard", "hardest"):
        value = build("loss", "triplet", negatives=negatives)(batch, batch)
        (gradient,) = torch.autograd.grad(value, z, retain_graph=True)
        assert value == 0
        assert not gradient.any()


def test_identical_rows_cost_the_margin():
    batch = rows(torch.ones(4, 5), torch.tensor([0, 0, 1, 1]))
    assert float(build("loss", "triplet", margin=0.3)(batch, batch)) == pytest.approx(0.3, abs=1e-6)
    # None of them is farther than another, whatever rounding says.
    assert build("loss", "triplet", margin=0.3, negatives="semihard")(batch, batch) == 0


def test_coinciding_rows_have_a_gradient_that_is_finite_where_distances_are_not_squared():
    z = torch.ones(4, 5, dtype=torch.float64, requires_grad=True)
    value = build("loss", "triplet", margin=0.3, squared=False)(rows(z, torch.tensor([0, 0, 1, 1])))
    (gradient,) = torch.autograd.grad(value, z)
    assert float(value.detach()) == pytest.approx(0.3)
    assert gradient.isfinite().all()


def test_nan_is_not_hidden():
    z = torch.randn(6, 3)
    z[0, 0] = math.nan
    batch = rows(z, torch.tensor([0, 0, 1, 1, 2, 2]))
    for negatives, soft, squared in product(NEGATIVES, (False, True), (False, True)):
        assert build("loss", "triplet", negatives=negatives, soft=soft, squared=squared)(batch, batch).isnan()


@pytest.mark.parametrize(("squared", "power"), [(False, 1), (True, 2)])
def test_it_equals_the_loss_of_pytorch_metric_learning(squared, power):
    # Version 2.9: all triplets, mean over those that are not 0.
    torch.manual_seed(3)
    z, labels = torch.randn(24, 6, dtype=torch.float64), torch.arange(24) % 5
    theirs = TripletMarginLoss(margin=0.4, distance=LpDistance(power=power))(z, labels)
    assert float(build("loss", "triplet", margin=0.4, squared=squared)(rows(z, labels))) == pytest.approx(float(theirs))
