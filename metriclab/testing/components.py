"""The kit for a component that is known by kind and name: how to build a small one of each kind, and its checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.core.batch import Batch
from metriclab.core.network import Network
from metriclab.core.rows import normalize
from metriclab.errors import RecipeError
from metriclab.registry import Definition, build, load_component
from metriclab.testing.checks import Check
from metriclab.testing.dataset import dataset_checks
from metriclab.testing.encoder import encoder_checks, head_checks
from metriclab.testing.evaluator import evaluator_checks
from metriclab.testing.loss import loss_checks
from metriclab.testing.memory import memory_checks
from metriclab.testing.method import method_checks
from metriclab.testing.miner import miner_checks
from metriclab.testing.optimizer import optimizer_checks, schedule_checks
from metriclab.testing.sampler import sampler_checks
from metriclab.testing.tracker import tracker_checks
from metriclab.testing.views import views_checks

ROWS_WIDTH, FEATURES, WIDTH = 5, 6, 4
"""Width of the rows that losses are tried on; of the features and of the embeddings of the network for methods."""

MEMORY_SIZE = 10

Params = Mapping[str, Any]


def component_checks(kind: str, name: str, params: Params | None = None, /, **options: Any) -> list[Check]:
    """The checks of a component, which is built as a run builds it.

    A loss is given rows of 5 dimensions and 8 classes. A memory is given a `size` of 10 where it has one that is not
    set. A method is given a linear encoder of 6 features (a frozen one if it refuses one that trains), a head of
    width 4, 7 images of 3 x 8 x 8 in two views, and of the components it asks for those that it requires: nt-xent, a
    ring of 8 rows, semihard-pairs. The other kinds are built from their parameters alone.

    Args:
        kind: one of `metriclab.registry.KINDS`.
        name: as listed.
        params: its parameters, where the defaults will not do, and for a method the components to give it.
        options: of the kind's check, such as `gradcheck=False` for a loss; for a method also `batch`.

    Raises:
        RecipeError: for an unknown name, or parameters that are unknown, missing or wrong.
        PluginError: where it cannot be loaded.
    """
    return definition_checks(load_component(kind, name), params or {}, **options)


def definition_checks(definition: Definition, params: Params, **options: Any) -> list[Check]:
    """As `component_checks`, for a component that is loaded."""
    return _KINDS[definition.entry.kind](definition, params, options)


def _refuse_wrong(definition: Definition, params: Params) -> None:
    """Raises for parameters of what is built only later, in a check."""
    _, problems = definition.check(params)
    if problems:
        raise RecipeError("\n".join(map(str, problems)))


def _loss(definition: Definition, params: Params, options: Params) -> list[Check]:
    given = (ROWS_WIDTH, torch.arange(8)) if definition.given else ()
    return loss_checks(definition.build(*given, **params), **options)


def _plain(checks: Callable[..., list[Check]]) -> _Kind:
    """For a kind that is built from its parameters alone."""

    def of(definition: Definition, params: Params, options: Params) -> list[Check]:
        return checks(definition.build(**params), **options)

    return of


def _made(checks: Callable[..., list[Check]]) -> _Kind:
    """For a kind of which the checks build several."""

    def of(definition: Definition, params: Params, options: Params) -> list[Check]:
        _refuse_wrong(definition, params)
        return checks(partial(definition.build, **params), **options)

    return of


def _memory(definition: Definition, params: Params, options: Params) -> list[Check]:
    sized = {"size": MEMORY_SIZE} if any(p.name == "size" for p in definition.parameters) else {}
    memory = definition.build(6, torch.tensor([0, 1, 2, 5]), **{**sized, **params})
    return memory_checks(memory, **options)


def _encoder(definition: Definition, params: Params, options: Params) -> list[Check]:
    make = partial(definition.build, **params)
    return encoder_checks(make(), **{"rebuild": make, **options})


def _head(definition: Definition, params: Params, options: Params) -> list[Check]:
    make = partial(definition.build, 7, **params)
    return head_checks(make(), 7, **{"rebuild": make, **options})


def _method(definition: Definition, params: Params, options: Params) -> list[Check]:
    wanted = [c for c in definition.components.values() if c.required and c.name not in params]
    remembered = FEATURES if getattr(definition.factory, "remembers", "z") == "h" else WIDTH
    components = {c.name: _component(c.kind, remembered) for c in wanted}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            method = _build_method(definition, {**components, **params}, frozen=False)
        except RecipeError as error:
            try:
                method = _build_method(definition, {**components, **params}, frozen=True)
            except RecipeError:
                raise error from None
    batch = small_batch(features=getattr(method, "trains_on", "images") == "features")
    if hasattr(method, "prepare"):
        features = small_batch(features=True).features
        method.prepare([str(item) for item in range(len(batch))], lambda table: features)
    return method_checks(method, **{"batch": batch, **options})


def _component(kind: str, width: int) -> Any:
    if kind == "memory":
        return build("memory", "ring", width, torch.arange(4), size=8)
    return build("loss", "nt-xent") if kind == "loss" else build("miner", "semihard-pairs")


def _build_method(definition: Definition, params: Params, *, frozen: bool) -> Any:
    encoder = SmallEncoder()
    encoder.requires_grad_(not frozen)
    return definition.build(*(Network(encoder, SmallHead()), 10)[: len(definition.given)], **params)


class SmallEncoder(nn.Module):
    """A linear encoder of 3 x 8 x 8 images with BatchNorm, which has to know the whole batch on several ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.out_features = FEATURES
        self.linear, self.norm = nn.Linear(3 * 8 * 8, FEATURES), nn.BatchNorm1d(FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.linear(images.flatten(1)))
        return features


class SmallHead(nn.Module):
    """A linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.out_features = WIDTH
        self.linear = nn.Linear(FEATURES, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        z: Tensor = self.linear(h.relu())
        return z


def small_batch(*, features: bool = False) -> Batch:
    """Seven images in two views, of three classes, one of them unknown; and their features where those are wanted."""
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.rand(7, 3, 8, 8, generator=generator) for _ in range(2))
    known = normalize(torch.randn(7, FEATURES, generator=generator)) if features else None
    return Batch(views, torch.tensor([0, 1, 0, 2, 1, 0, -1]), torch.arange(7), torch.arange(7), 0, known)


_Kind = Callable[[Definition, Params, Params], list[Check]]

_KINDS: dict[str, _Kind] = {
    "dataset": _made(dataset_checks),
    "views": _plain(views_checks),
    "sampler": _made(sampler_checks),
    "encoder": _encoder,
    "head": _head,
    "loss": _loss,
    "miner": _plain(miner_checks),
    "memory": _memory,
    "method": _method,
    "optimizer": _made(optimizer_checks),
    "schedule": _made(schedule_checks),
    "evaluator": _plain(evaluator_checks),
    "tracker": _made(tracker_checks),
}
