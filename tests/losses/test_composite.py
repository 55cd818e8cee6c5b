"""Several losses as one: the weighted sum, each on its own dimensions, labels, references and pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metriclab.core.call_loss import check_miner_fits
from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.rows import Rows, concatenate, rows
from metriclab.errors import RecipeError
from metriclab.losses import Composite, Contrastive, NTXent, Part, ProxyAnchor, SupCon, Triplet, matryoshka
from metriclab.memories import Proxies, Ring
from metriclab.methods import XBM, SimCLR, Supervised
from metriclab.miners import SemihardPairs
from metriclab.testing import check_loss, check_method
from tests.support.small_methods import labelled, network

LABELS = torch.tensor([0, 1, -1, 0, 1, -1, 2, -1])
ITEMS = torch.tensor([0, 1, 2, 3, 1, 2, 4, 5])


def batch(z: torch.Tensor) -> Rows:
    """Rows of which the second and the fifth, and the third and the sixth, are of one image."""
    return rows(z, LABELS, ITEMS)


def embeddings(n: int = 8, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, requires_grad=True)


def agree(criterion, expected, z, *references):
    """Value and gradient of the criterion on rows of z against those of a function of the unit rows."""
    found = criterion(batch(z), *references)
    wanted = expected(batch(z), *references)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), abs=1e-13)
    gradients = [torch.autograd.grad(value, z, retain_graph=True)[0] for value in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-13, rtol=0)


def prefix(given: Rows, dims: int) -> Rows:
    """The first columns, each row divided by its length, one after the other."""
    shortened = [row[:dims] / row[:dims].square().sum().sqrt() for row in given.z]
    return replace(given, z=torch.stack(shortened))


def test_it_is_the_weighted_sum_of_its_parts():
    one, other = NTXent(temperature=0.2), Triplet(margin=0.1)
    criterion = Composite({"one": Part(one, weight=0.25), "other": Part(other, weight=3.0)})
    agree(criterion, lambda given: 0.25 * one(given) + 3 * other(given), embeddings())


def test_a_part_sees_so_many_dimensions_as_rows_of_norm_1():
    loss = Contrastive()
    agree(Composite([Part(loss, dims=3)]), lambda given: loss(prefix(given, 3)), embeddings())
    memory = rows(embeddings(5), [0, 1, 2, 0, -1])
    expected = lambda given, held: loss(prefix(given, 3), prefix(held, 3))  # noqa: E731
    agree(Composite([Part(loss, dims=3)]), expected, embeddings(), memory)


def test_all_dimensions_are_the_loss_itself_to_the_last_bit():
    z = torch.randn(8, 6, requires_grad=True)
    values = [loss(batch(z)) for loss in (SupCon(), Composite([SupCon()]), Composite([Part(SupCon(), dims=6)]))]
    gradients = [torch.autograd.grad(value, z)[0] for value in values]
    assert len({float(value.detach()) for value in values}) == 1
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_a_matryoshka_is_the_sum_over_its_prefixes():
    loss = SupCon()
    expected = lambda given: loss(prefix(given, 2)) + loss(prefix(given, 4)) + loss(given)  # noqa: E731
    agree(matryoshka(loss, dims=[2, 4, 6]), expected, embeddings())


def test_a_prefix_that_is_zero_has_no_gradient():
    z = torch.randn(8, 6, dtype=torch.float64)
    z[0, :3] = 0
    z.requires_grad_()
    criterion = Composite([Part(NTXent(), dims=3)])
    (gradient,) = torch.autograd.grad(criterion(batch(z)), z)
    assert gradient.isfinite().all()
    assert not gradient[0].any()


def test_images_of_unknown_class_take_part_where_images_are_the_classes():
    loss = NTXent()
    z = embeddings()
    by_class, by_image = Composite([loss]), Composite([Part(loss, labels="item")])
    agree(by_image, lambda given: loss(replace(given, labels=given.items)), z)
    (of_classes,) = torch.autograd.grad(by_class(batch(z)), z)
    (of_images,) = torch.autograd.grad(by_image(batch(z)), z)
    assert not of_classes[LABELS < 0].any()
    assert of_images[LABELS < 0].abs().sum(1).gt(0).all()
    both = Composite([loss, Part(loss, weight=0.5, labels="item")])
    (of_both,) = torch.autograd.grad(both(batch(z)), z)
    torch.testing.assert_close(of_both, of_classes + 0.5 * of_images, atol=1e-13, rtol=0)


def test_a_part_may_stay_with_the_batch_where_the_method_has_a_memory():
    proxies, pull, push = Proxies(6, range(3)).double(), ProxyAnchor(), NTXent()
    criterion = Composite([pull, Part(push, labels="item", against="batch")])
    assert not criterion.pairwise
    expected = lambda given, held: pull(given, held) + push(replace(given, labels=given.items))  # noqa: E731
    agree(criterion, expected, embeddings(), proxies.rows())


def test_each_part_has_a_miner_of_its_own():
    miner, mined, free = SemihardPairs(), Contrastive(), SupCon()
    criterion = Composite([Part(mined, miner=miner), free])
    agree(criterion, lambda given: mined(given, given, miner=miner) + free(given), embeddings())
    assert not torch.equal(mined(batch(embeddings())), criterion(batch(embeddings())))


def closeness(pairs):
    apart = torch.where(pairs.positive, 1 - pairs.similarity, 0)
    return {"pairs": Term(apart.sum(1), pairs.positive.sum(1))}


def test_any_composition_keeps_what_losses_keep():
    parts = {
        "learned": Part(NTXent(temperature=0.2, learnable_temperature=True), weight=0.5),
        "prefix": Part(SupCon(), dims=2),
        "mined": Part(PairLoss(closeness), dims=3, miner=SemihardPairs()),
    }
    check_loss(Composite(parts), unit=False)


def methods(memory: str | None, method: str, *, batch_norm: bool = True):
    parts = [
        Part(NTXent(learnable_temperature=True), weight=0.5, dims=2),
        Part(ProxyAnchor() if memory == "proxies" else Contrastive(), dims=3),
        Part(NTXent(), labels="item", against="batch" if method == "supervised" and memory else "method"),
        Part(SupCon(), miner=SemihardPairs()),
    ]
    held = {"proxies": lambda: Proxies(4, range(3)), "ring": lambda: Ring(4, size=10), None: lambda: None}[memory]()
    kinds = {"xbm": lambda *a, **k: XBM(*a, start_step=0, **k), "supervised": Supervised, "simclr": SimCLR}
    return kinds[method](network(batch_norm=batch_norm), loss=Composite(parts), memory=held)


@pytest.mark.parametrize(
    ("method", "memory"),
    [
        ("supervised", None),
        ("supervised", "proxies"),
        pytest.param("supervised", "ring", marks=pytest.mark.slow),
        pytest.param("xbm", "ring", marks=pytest.mark.slow),
        pytest.param("simclr", None, marks=pytest.mark.slow),
        pytest.param("simclr", "ring", marks=pytest.mark.slow),
    ],
)
def test_methods_keep_what_they_keep_with_several_losses(method, memory):
    check_method(methods(memory, method), labelled([0, 1, 0, 2, 1, 0, -1], views=2))


def test_copies_for_prefixes_learn_each_by_itself():
    criterion = matryoshka(NTXent(learnable_temperature=True), dims=[2, 4])
    assert len(list(criterion.parameters())) == 2
    assert set(criterion.state_dict()) == {"parts.0.loss.log_scale", "parts.1.loss.log_scale"}


def test_raw_embeddings_do():
    z = torch.randn(6, 8, requires_grad=True)
    matryoshka(SupCon(), dims=[2, 8])(z, [0, 0, 1, 1, 2, 2]).backward()
    assert z.grad.any()


def test_it_shows_its_parts():
    shown = repr(Composite({"classes": Part(SupCon(), dims=64)}))
    assert "Composite(\n  classes\n" in shown
    assert "weight=1.0, dims=64, labels='method', against='method'" in shown


class Whole(torch.nn.Module):
    """A loss that is none over pairs."""

    def forward(self, anchors, references):
        return (anchors.z * references.z).sum()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Composite([]), "a composite of no loss has nothing to say\n  help: give it one loss at least"),
        (
            lambda: Part(SupCon(), weight=0.0),
            "the weight of a loss must be above 0, not 0.0\n  help: leave the loss out instead",
        ),
        (
            lambda: Part(SupCon(), weight=float("nan")),
            "the weight of a loss must be above 0, not nan\n  help: leave the loss out instead",
        ),
        (
            lambda: Part(SupCon(), dims=0),
            "a loss sees 1 dimension or more, not dims = 0\n  help: leave dims out for all",
        ),
        (
            lambda: matryoshka(SupCon(), dims=[2, 4, 2]),
            "dims = [2, 4, 2] has a number twice\n  help: keep one of them",
        ),
        (
            lambda: Part(ProxyAnchor(), labels="item"),
            "the loss ProxyAnchor is for learned rows of classes, and cannot tell images apart\n"
            '  help: leave out labels = "item", or choose a loss such as nt-xent',
        ),
        (
            lambda: Part(Whole(), miner=SemihardPairs()),
            "the loss Whole takes no miner: it is no loss over pairs\n"
            "  help: remove [miner], or name a loss over pairs, such as contrastive",
        ),
        (
            lambda: check_miner_fits(Composite([SupCon()]), SemihardPairs()),
            "several losses at once take no miner together\n"
            "  help: give the miner to the loss that it is for: miner = { name = ... } in its [[loss]]",
        ),
        (
            lambda: Composite([Part(SupCon(), dims=9)])(torch.randn(4, 8), [0, 0, 1, 1]),
            "dims = 9 of a loss is above the 8 dimensions of the embeddings\n"
            "  help: lower it, or leave it out for all dimensions",
        ),
        (
            lambda: methods("proxies", "xbm").loss and XBM(network(batch_norm=False), loss=against(), memory=ring()),
            "method 'xbm' holds each loss against the batch, and against the memory besides\n"
            '  help: leave out against = "batch"',
        ),
        (
            lambda: Supervised(network(batch_norm=False), loss=by_image(), memory=Proxies(4, range(3))),
            "the memory Proxies holds classes, and the loss 'images' tells images apart: it would find no pair there\n"
            '  help: hold that loss against the batch: against = "batch"',
        ),
    ],
)
def test_what_cannot_be_is_refused(make, text):
    with pytest.raises(RecipeError) as caught:
        make()
    error = caught.value
    assert f"{error.message}\n  help: {error.help}" == text


def ring():
    return Ring(4, size=10)


def against():
    return Composite([Part(NTXent(), against="batch")])


def by_image():
    return Composite({"images": Part(NTXent(), labels="item")})


def test_raw_embeddings_have_no_images():
    with pytest.raises(TypeError, match="rows\\(z, labels, items\\)") as caught:
        by_image()(torch.randn(4, 8), [0, 0, 1, 1])
    expected = 'labels = "item" needs to know whose image a row is: call it with rows(z, labels, items)'
    assert str(caught.value) == expected


def test_rows_of_earlier_steps_are_shown_alike():
    """A memory's rows are cut, and told apart, as the anchors are."""
    loss = NTXent()
    criterion = Composite([Part(loss, dims=3, labels="item")])
    z, earlier = embeddings(), batch(embeddings())
    held = concatenate([batch(z), earlier])

    def expected(given, references):
        seen = [replace(prefix(side, 3), labels=side.items) for side in (given, references)]
        return loss(*seen)

    agree(criterion, expected, z, held)
