"""Guards against slow-downs that need no clock: the operators of a step, the bytes it writes and holds, and that it
never makes a GPU wait for the host."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metriclab.assembly.assemble import Training, assemble
from metriclab.assembly.splits import load_splits
from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.registry import build
from metriclab.testing.meter import measure
from metriclab.training.fit import fit
from metriclab.views import device
from metriclab.views.geometry import portions
from tests.support.tiny import tiny

WAITING = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
}
"""Operators that need a value on the host, or make a shape out of values."""


class Watch(TorchDispatchMode):
    """Follows the memory of what runs inside the block.

    Attributes:
        written: bytes of all results that are no views of something else.
        held, peak: bytes of the storages made inside that are alive, now and at most.
        waiting: how often operators ran that have a GPU wait for the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written = self.peak = 0
        self.waiting: Counter[str] = Counter()
        self._alive: dict[StorageWeakRef, int] = {}

    @property
    def held(self) -> int:
        self._alive = {storage: size for storage, size in self._alive.items() if not storage.expired()}
        return sum(self._alive.values())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(leaf.dtype == torch.bool for leaf in given[1:])
        if name in WAITING or by_mask:
            self.waiting[str(function)] += 1
        known = {StorageWeakRef(leaf.untyped_storage()) for leaf in given}
        result = function(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        for leaf, returned in zip(made, function._schema.returns * len(made), strict=False):
            storage = StorageWeakRef(leaf.untyped_storage())
            if returned.alias_info is None or returned.alias_info.is_write:
                self.written += leaf.nbytes
            if storage not in known:
                self._alive[storage] = leaf.untyped_storage().nbytes()
        self.peak = max(self.peak, self.held)
        return result


@pytest.fixture(scope="module", autouse=True)
def on_an_accelerator():
    """What runs is what an accelerator would run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "is_cpu", lambda x: False)
        yield


def images(n: int, channels: int, side: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.full((n, 2), side))


def make_views(n: int, channels: int, side: int, size: int) -> tuple[torch.Tensor, ...]:
    """Two views of n images, with all that can happen to them."""
    some, keys = images(n, channels, side), RandomKeys(0, 0, torch.arange(n), torch.zeros(n, dtype=torch.int64))
    return build("views", "simclr", size=size, rotation=10.0, solarize=0.2)(some, keys)


@pytest.mark.parametrize(("channels", "side", "most"), [(1, 28, 800), (3, 40, 1150)])
def test_views_of_a_batch_run_as_many_operators_as_views_of_one_image(channels, side, most):
    counts = []
    for n in (1, 2, 100):
        with measure() as meter:
            make_views(n, channels, side, 32)
        counts.append(meter.operators)
    assert counts[0] == counts[1] == counts[2]
    assert counts[0].total() <= most


def test_views_of_many_large_images_run_operators_for_each_portion_of_a_few_megabytes():
    totals, parts = [], []
    for n in (12, 24):
        with measure() as meter:
            make_views(n, 3, 300, 224)
        totals.append(meter.operators.total())
        parts.append(len(list(portions(images(n, 3, 300), 224))))
    assert parts == [2, 4]
    assert totals[1] - totals[0] <= 2 * 900


@pytest.mark.parametrize(("n", "channels", "side", "size"), [(256, 1, 28, 32), (64, 3, 40, 32), (6, 3, 300, 224)])
def test_views_hold_and_write_few_times_what_they_return(n, channels, side, size):
    returned = 2 * n * channels * size * size * 4
    with measure() as meter, Watch() as watch:
        make_views(n, channels, side, size)
    assert meter.largest * 4 <= returned
    assert watch.peak <= 5.5 * returned
    assert watch.written <= 75 * returned
    assert not watch.waiting


@pytest.mark.parametrize(("channels", "share"), [(1, 0.96), (3, 0.7)])
@pytest.mark.parametrize(("side", "size"), [(40, 32), (320, 224), (700, 224)])
def test_a_cpu_passes_over_what_changes_nothing(channels, share, side, size, monkeypatch):
    with Watch() as branch_free:
        expected = make_views(12, channels, side, size)
    monkeypatch.setattr(device, "is_cpu", lambda x: x.device.type == "cpu")
    with Watch() as ours:
        views = make_views(12, channels, side, size)
    for one, other in zip(views, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    if side < 700:  # of larger images most bytes are the smaller levels'
        assert ours.written < share * branch_free.written


@dataclass
class Ran:
    """What three steps of a run did, after a first one that allocates what stays."""

    training: Training
    operators: list[Counter[str]]
    peak: int
    written: int
    held: list[int]
    waiting: Counter[str]


def ran(folder: Path, *overrides: str) -> Ran:
    recipe = tiny(folder, *overrides)
    training = assemble(recipe, load_splits(recipe).train)
    under_way, operators, held = fit(training), [], []
    next(under_way)
    with Watch() as watch:
        for _ in range(3):
            with measure() as meter:
                step = next(under_way)
            operators.append(meter.operators)
            held.append(watch.held)
    assert step.done == 4
    return Ran(training, operators, watch.peak, watch.written, held, watch.waiting)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Ran:
    return ran(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Ran:
    """The same run over twenty times as many images."""
    return ran(tmp_path_factory.mktemp("large"), "data.per_class=320")


def test_a_step_costs_the_same_whatever_the_size_of_the_data_set(small, large):
    assert small.operators == large.operators
    assert (small.peak, small.written) == (large.peak, large.written)


def test_every_step_costs_the_same(large):
    assert large.operators[0] == large.operators[1] == large.operators[2]
    assert large.operators[0].total() <= 1700


def test_no_memory_is_kept_from_step_to_step(large):
    assert large.held[1] == large.held[2]


def test_both_views_go_through_the_encoder_in_one_pass(small):
    layers = sum(isinstance(layer, nn.Conv2d) for layer in small.training.method.modules())
    assert small.operators[0]["aten.convolution.default"] == layers
    assert small.operators[0]["aten.convolution_backward.default"] == layers


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_updates_all_parameters_of_a_group_at_once(name):
    modules = {"encoder": nn.Sequential(*[nn.Linear(4, 4) for _ in range(6)])}
    optimizer = build("optimizer", name, modules)
    for parameter in modules["encoder"].parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # makes its state
    with measure() as meter:
        optimizer.step()
    assert meter.operators[f"aten._fused_{name}_.default"] == len(optimizer.param_groups) == 2
    assert sum(count for name, count in meter.operators.items() if name.startswith("aten.")) <= 4


# The pointwise losses count their pairs on a CPU, where that costs nothing and saves work; see PointwisePairLoss.
@pytest.mark.parametrize(
    "overrides",
    [
        ["train.clip_gradient=1.0", "train.precision=bfloat16"],
        ["loss.name=triplet", "method.name=supervised"],
        ["method.name=xbm", "memory.name=ring", "memory.size=32"],
    ],
)
def test_no_step_waits_for_a_number(tmp_path, small, overrides):
    assert not small.waiting
    assert not ran(tmp_path, *overrides).waiting
