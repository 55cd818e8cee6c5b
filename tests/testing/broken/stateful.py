"""Miners, memories and methods that are wrong, each in the way its name says."""

from __future__ import annotations

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
