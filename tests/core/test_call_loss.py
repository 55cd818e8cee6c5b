"""How losses are called: raw embeddings and labels, rows, and rows that are the same or only look it."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from metriclab.core.call_loss import call_loss, call_pair_loss
from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.rows import rows
from metriclab.distributed import average_gradients, gather
from metriclab.losses import ArcFace, NTXent, ProxyAnchor, SupCon
from metriclab.memories.proxies import Proxies
from metriclab.registry import build, entries, load
from metriclab.testing.ranks import two_ranks

LABELS = [0, 1, 2, 0, 1, -1, 0, 2, 1, 3]
NAMES = [entry.name for entry in entries("loss") if entry.package == "metriclab-toolkit" and entry.name != "pml"]


def everything(pairs):
    return pairs


@pytest.fixture
def z():
    return torch.randn(len(LABELS), 5, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", NAMES)
def test_raw_embeddings_are_rows_held_against_themselves(name, z):
    loss = build("loss", name)
    batch = rows(z, torch.tensor(LABELS))
    expected = nn.Module.__call__(loss, batch, batch)
    labels = [LABELS, tuple(LABELS), torch.tensor(LABELS), torch.tensor(LABELS, dtype=torch.int32), np.array(LABELS)]
    values = [loss(z, given) for given in labels] + [loss(batch), loss(batch, batch), loss(rows(z, LABELS), batch)]
    for value in values:
        torch.testing.assert_close(value, expected, atol=1e-14, rtol=0)
        torch.testing.assert_close(*(torch.autograd.grad(v, z, retain_graph=True)[0] for v in (value, expected)))


@pytest.mark.parametrize("name", [name for name in NAMES if getattr(load("loss", name).factory, "pairwise", False)])
def test_a_loss_over_pairs_takes_a_miner(name, z):
    loss = build("loss", name)
    torch.testing.assert_close(loss(z, LABELS, miner=everything), loss(z, LABELS), atol=1e-12, rtol=0)


def test_a_loss_over_no_pairs_takes_no_miner(z):
    with pytest.raises(TypeError, match="miner"):
        ProxyAnchor()(z, LABELS, miner=everything)


def test_half_precision_that_does_not_lie_in_order(z):
    half = z.detach().half().t().contiguous().t()
    torch.testing.assert_close(NTXent()(half, LABELS), NTXent()(half.float(), LABELS))


def test_what_is_neither_is_told():
    batch = rows(torch.randn(2, 3), [0, 0])
    call = inspect.unwrap(call_pair_loss)  # outside the tests nothing executes the annotations
    for wrong in ((batch.z,), (batch.z, batch), (batch, [0, 0])):
        with pytest.raises(
            TypeError, match=r"a loss takes \(z, labels\), or \(anchors, references\), both of them Rows"
        ):
            call(NTXent(), *wrong)


def test_hooks_run_and_see_rows(z):
    loss, seen = NTXent(), []
    loss.register_forward_pre_hook(lambda module, given: seen.append([type(part).__name__ for part in given]))
    loss.register_forward_hook(lambda module, given, value: 2 * value)
    torch.testing.assert_close(loss(z, LABELS), 2 * NTXent()(z, LABELS))
    assert seen == [["Rows", "Rows"]]


def test_a_third_partys_loss_has_it_for_nothing(z):
    def closeness(pairs):
        return {"pairs": Term(torch.where(pairs.positive, 1 - pairs.similarity, 0).sum(1), pairs.positive.sum(1))}

    batch = rows(z, LABELS)
    assert PairLoss(closeness)(z, LABELS) == PairLoss(closeness)(batch, batch)


def test_a_copy_of_the_anchors_is_told_not_one_of_the_same_ids(z):
    batch = rows(z, LABELS)
    copied = rows(z.detach().clone(), LABELS)
    with pytest.warns(UserWarning, match="under other ids, so each row is its own positive: make the rows once, and"):
        NTXent()(batch, copied)
    apart = [
        batch.detach(),
        rows(z, LABELS),
        rows(z.detach().clone(), [9] * len(LABELS)),
        rows(torch.randn_like(z), LABELS),
        rows(z.detach().clone(), LABELS, items=batch.items),  # another view of the same images
        copied[:3],
        copied[:0],
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for references in apart:
            NTXent()(batch, references)
        NTXent()(batch[:0], copied[:0])


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_what_is_printed(name, z):
    settings = {p.name: p.default for p in load("loss", name).parameters}
    loss = build("loss", name)
    assert all(f"{key}={value!r}" in repr(loss) for key, value in settings.items())
    for made in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(made) == repr(loss)
        torch.testing.assert_close(made(z, LABELS), loss(z, LABELS), atol=0, rtol=0)


CHANGES = {
    "nt-xent": {"temperature": 0.5},
    "supcon": {"temperature": 0.5},
    "normalized-softmax": {"temperature": 0.5},
    "proxy-nca": {"temperature": 0.5, "denominator": "all"},
    "logistic": {"temperature": 0.5, "bias": -1.0},
    "contrastive": {"variant": "cosine", "positive": 0.9, "negative": 0.1},
    "triplet": {"margin": 0.5, "soft": True, "negatives": "hardest"},
    "multi-similarity": {"alpha": 1.0, "beta": 10.0, "base": 0.2},
    "arcface": {"scale": 8.0, "margin": 0.2},
    "cosface": {"scale": 8.0, "margin": 0.2},
    "proxy-anchor": {"scale": 8.0, "margin": 0.3},
    "n-pair": {},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_changed_between_calls_counts_on_every_path(name, z):
    many, labels = torch.randn(140, 5, dtype=torch.float64), [i % 2 for i in range(140)]  # past the closed form
    loss, other = build("loss", name), build("loss", name, **CHANGES[name])
    paths = [lambda loss: loss(z, LABELS), lambda loss: loss(many, labels)]
    if getattr(loss, "pairwise", False):
        paths.append(lambda loss: loss(z, LABELS, miner=everything))
    before = [path(loss) for path in paths]
    for key, value in CHANGES[name].items():
        setattr(loss, key, value)
    for path, first in zip(paths, before, strict=True):
        torch.testing.assert_close(path(loss), path(other), atol=0, rtol=0)
        assert not CHANGES[name] or path(loss) != first


def test_a_learned_setting_is_set_and_shown_as_it_is_now(z):
    loss = build("loss", "logistic", temperature=0.1, bias=-1.0, learnable=True).double()
    loss.temperature, loss.bias = 0.25, 2.0
    fixed = build("loss", "logistic", temperature=0.25, bias=2.0)
    torch.testing.assert_close(loss(z, LABELS), fixed(z, LABELS), atol=1e-12, rtol=0)
    assert (loss.temperature, loss.bias) == (pytest.approx(0.25), 2.0)
    with torch.no_grad():
        loss.terms.bias += 1
    assert "bias=3.0, learnable=True" in repr(loss)


@pytest.mark.parametrize("name", NAMES)
def test_a_call_leaves_nothing_behind(name):
    loss, z = build("loss", name), torch.randn(len(LABELS), 5, requires_grad=True)
    kept = weakref.ref(z)
    gc.disable()
    try:
        loss(z, LABELS).backward()
        del z
        assert kept() is None  # no reference cycles
    finally:
        gc.enable()


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()


def own_step(share, loss):
    """A step of one's own loop: each rank embeds its rows, and every rank holds all of them against all of them."""
    network, loss = model(), copy.deepcopy(loss).double()
    images = torch.randn(len(LABELS), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    part = share.of(len(LABELS))
    wrapped = DistributedDataParallel(network) if share.ranks > 1 else network
    value = loss(gather(rows(wrapped(images[part]), LABELS[part])))
    value.backward()
    average_gradients(loss.parameters())
    everything = {**dict(network.named_parameters()), **dict(loss.named_parameters(prefix="loss"))}
    return {"value": value.detach(), **{name: parameter.grad for name, parameter in everything.items()}}


@pytest.mark.parametrize("name", [*NAMES, "learned"])
def test_in_ones_own_loop_under_ddp_value_and_gradient_are_those_of_one_process(name):
    loss = build("loss", "logistic", learnable=True) if name == "learned" else build("loss", name)
    two_ranks(own_step, loss, tolerance=1e-11)


def step_against_proxies(share):
    """Proxies that start from the same values and stay outside of DistributedDataParallel."""
    torch.manual_seed(5)
    proxies, z = Proxies(5, torch.arange(4)).double(), torch.randn(len(LABELS), 5, dtype=torch.float64)
    part = share.of(len(LABELS))
    value = ArcFace(scale=10.0)(gather(rows(z[part], LABELS[part])), proxies.rows())
    value.backward()
    return {"value": value.detach(), "of proxies": proxies.directions.grad}


def test_proxies_have_the_whole_gradient_on_every_rank():
    two_ranks(step_against_proxies)


def test_call_loss_shows_no_miner():
    assert "miner" not in inspect.signature(call_loss).parameters
    assert "miner" in inspect.signature(SupCon().forward).parameters
