"""Miners, memories and methods that are wrong, each in the way its name says."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.api import Batch, Embedded, Loss, Network, Objective, Pairs, Rows, apply_loss, gather, register


@register("miner", "adds-pairs")
def adds_pairs():
    return _everything_negative


def _everything_negative(pairs: Pairs) -> Pairs:
    return replace(pairs, negative=~pairs.positive)


@register("miner", "draws-globally")
def draws_globally():
    return _half


def _half(pairs: Pairs) -> Pairs:
    return replace(pairs, negative=pairs.negative & (torch.rand_like(pairs.similarity) < 0.5))


class Counts:
    """Stricter the more often it was called."""

    calls = 0

    def __call__(self, pairs: Pairs) -> Pairs:
        self.calls += 1
        return replace(pairs, negative=pairs.negative & ~(pairs.similarity < -1 + self.calls // 1000))


@register("miner", "counts-its-calls")
def counts_its_calls():
    return Counts()


@register("miner", "counts-in-a-closure")
def counts_in_a_closure():
    calls = [0]

    def choose(pairs: Pairs) -> Pairs:
        calls[0] += 1
        return replace(pairs, negative=pairs.negative & ~(pairs.similarity < -1 + calls[0] // 1000))

    return choose


class Shelf(nn.Module):
    """Ten places, first in, first out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        empty = -(2**62) - torch.arange(10)
        self.register_buffer("z", torch.zeros(10, width))
        self.register_buffer("keys", torch.stack([torch.full((10,), -1), empty, empty, torch.zeros(10).long()]))

    def rows(self) -> Rows:
        return Rows(self.z, *self.keys)

    def push(self, rows: Rows) -> None:
        if self.training:
            rows = rows[rows.ids.argsort()].detach()
            self.store(rows[rows.z.isfinite().all(1).nonzero()[:, 0]])

    def store(self, rows: Rows) -> None:
        keys = torch.stack([rows.labels, rows.items, rows.ids, rows.views])
        self.z = torch.cat([self.z, rows.z])[-10:]
        self.keys = torch.cat([self.keys, keys], 1)[:, -10:]


@register("memory", "returns-this-batch")
class ReturnsThisBatch(Shelf):
    """Hands out the rows of the last push as they are, graph and all, in place of what it stores."""

    def __init__(self, width: int, classes: Tensor, /) -> None:
        super().__init__(width)
        self.batch: Rows | None = None

    def rows(self) -> Rows:
        return super().rows() if self.batch is None else self.batch

    def push(self, rows: Rows) -> None:
        if self.training:
            self.batch = rows


@register("memory", "state-outside-buffers")
class StateOutsideBuffers(Shelf):
    """A plain attribute that no checkpoint has: every second push is left out."""

    def __init__(self, width: int, classes: Tensor, /) -> None:
        super().__init__(width)
        self.pushes = 0

    def store(self, rows: Rows) -> None:
        if self.pushes % 2 == 0:
            super().store(rows)
        self.pushes += 1


@register("memory", "counts-pushes")
class CountsPushes(Shelf):
    """Begins to store after a thousand pushes of this process."""

    def __init__(self, width: int, classes: Tensor, /) -> None:
        super().__init__(width)
        self.pushes = 0

    def push(self, rows: Rows) -> None:
        self.pushes += 1
        super().push(rows)


@register("memory", "not-normalised")
class NotNormalised(Shelf):
    def __init__(self, width: int, classes: Tensor, /) -> None:
        super().__init__(width)

    def rows(self) -> Rows:
        return Rows(3 * self.z, *self.keys)


class Simple(nn.Module):
    """A good method, to be spoilt."""

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: Batch) -> tuple[Rows]:
        return (batch.rows([view.z for view in self.network.views(batch.views)], labels=batch.items),)

    def objective(self, local: Any, world: Any) -> Objective:
        return Objective(apply_loss(self.loss, local[0], world[0]), {})

    def after_step(self, world: Any, step: int) -> None:
        pass

    def embed(self, images: Tensor) -> Embedded:
        embedded: Embedded = self.network(images)
        return embedded


@register("method", "side-effects")
class SideEffects(Simple):
    """Counts rows where it must not."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)
        self.register_buffer("seen", torch.zeros(()))

    def objective(self, local: Any, world: Any) -> Objective:
        self.seen += len(world[0])
        return super().objective(local, world)


@register("method", "state-outside-buffers")
class MethodState(Simple):
    """Its weight grows with the steps of this process, not of the run."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)
        self.done = 0

    def objective(self, local: Any, world: Any) -> Objective:
        return Objective(super().objective(local, world).loss * (1 + self.done), {})

    def after_step(self, world: Any, step: int) -> None:
        self.done += 1


@register("method", "this-rank-only")
class ThisRankOnly(Simple):
    """Forgets the rows of the other ranks."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)

    def objective(self, local: Any, world: Any) -> Objective:
        return super().objective(local, local)


@register("method", "gathers")
class MethodGathers(Simple):
    """Gathers what is gathered, and counts every row once a rank."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)

    def objective(self, local: Any, world: Any) -> Objective:
        return super().objective(local, gather(world))


@register("method", "mixes-images")
class MixesImages(Simple):
    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)

    def embed(self, images: Tensor) -> Embedded:
        h, z = super().embed(images)
        return Embedded(h, z - z.mean(0))


@register("method", "renames-its-network")
class RenamesItsNetwork(nn.Module):
    """Good but for the name under which it keeps the network."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__()
        self.backbone, self.loss = network, loss

    def forward(self, batch: Batch) -> tuple[Rows]:
        return (batch.rows([view.z for view in self.backbone.views(batch.views)], labels=batch.items),)

    def objective(self, local: Any, world: Any) -> Objective:
        return Objective(apply_loss(self.loss, local[0], world[0]), {})

    def after_step(self, world: Any, step: int) -> None:
        pass

    def embed(self, images: Tensor) -> Embedded:
        embedded: Embedded = self.backbone(images)
        return embedded


@register("method", "climbs")
class Climbs(Simple):
    """The value is right, and the gradient has the other sign."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)

    def objective(self, local: Any, world: Any) -> Objective:
        loss = super().objective(local, world).loss
        return Objective(2 * loss.detach() - loss, {})


@register("method", "climbs-the-given-loss")
class ClimbsTheGivenLoss(Simple):
    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)

    def objective(self, local: Any, world: Any) -> Objective:
        return Objective(-super().objective(local, world).loss, {})


@register("method", "average-runs-away")
class AverageRunsAway(Simple):
    """The momentum has the wrong sign."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)
        self.average = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def after_step(self, world: Any, step: int) -> None:
        for average, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
            average.lerp_(now, -0.01)


@register("method", "average-of-one-step")
class AverageOfOneStep(Simple):
    """The share that stays is taken for the share that comes."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)
        self.average = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def after_step(self, world: Any, step: int) -> None:
        for average, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
            average.lerp_(now, 0.99)


@register("method", "undoes-its-steps")
class UndoesItsSteps(Simple):
    """Climbs further than the optimizer came down."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)
        self.register_buffer("last", torch.zeros(0))

    @torch.no_grad()
    def after_step(self, world: Any, step: int) -> None:
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.add_(parameter.grad)


@register("method", "in-float32")
class InFloat32(Simple):
    """Good: it computes in float32 whatever it is given."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)

    def forward(self, batch: Batch) -> tuple[Rows]:
        return super().forward(replace(batch, views=tuple(view.float() for view in batch.views)))


@register("method", "crashes-on-few-images")
class CrashesOnFewImages(Simple):
    """Not a wrong sum over ranks: it cannot work with what a rank has."""

    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__(network, loss)

    def forward(self, batch: Batch) -> tuple[Rows]:
        if len(batch) < 7:
            raise ValueError("too few images for a queue")
        return super().forward(batch)
