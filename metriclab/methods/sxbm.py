"""S-XBM: selectable cross-batch memory, which compresses the features of a frozen encoder."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from metriclab import distributed
from metriclab.core.batch import Batch
from metriclab.core.call_loss import apply_loss, check_miner_fits, parts_of
from metriclab.core.network import Embedded, Network
from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs
from metriclab.core.protocols import Loss, Memory, Miner, Objective
from metriclab.core.rows import Rows, concatenate, count_positives, normalize, rows
from metriclab.core.soft_triplets import SoftTriplets
from metriclab.core.tiles import anchors_per_tile
from metriclab.errors import RecipeError
from metriclab.methods.neighbours import Neighbours, is_neighbour, nearest_features
from metriclab.registry import register


class Outputs(NamedTuple):
    """What this rank's images give.

    Attributes:
        rows: the head's embeddings of the images.
        features: the frozen encoder's features, which the head is given.
        neighbours: the head's embeddings of the remembered rows that are near to any image of any rank, each once;
            of this rank, its share of them.
        slots: their places in the memory.
        nearest: for each image, the slots of its k neighbours.
        teacher: cosine of the features of each image and its neighbours; -inf where there is none.
    """

    rows: Rows
    features: Rows
    neighbours: Rows
    slots: Int64[Tensor, "m"]
    nearest: Int64[Tensor, "n k"]
    teacher: Float[Tensor, "n k"]


@register("method", "sxbm")
class SXBM(nn.Module):
    """Trains the head alone, so that images keep their nearest neighbours of the frozen features in fewer dimensions.

    The k nearest features in memory are the neighbours of an image; it is never its own. The head is applied to the
    batch and, once each, to all of its neighbours. Without a loss it aligns: the loss is the mean over images i and
    neighbours j of |s_ij - t_ij|, where t is the cosine of the features and s that of the head's embeddings. With a
    loss, this is held over the batch and all its neighbours by their labels, each item once. As features never change,
    the memory needs no start-up.

    The head is given features of norm 1. Set train.output = "z" to measure what it gives. Logged are `neighbours`, how
    many an image has, and `agreement`, the correlation of s and t over all of them.

    Paper: Zhang et al., SMEC: Rethinking Matryoshka Representation Learning for Retrieval Embedding Compression, EMNLP
    2025, arXiv 2510.12474, equations 7 and 8, as means where the paper sums.

    Args:
        network: a frozen encoder, and a head.
        memory: where the features of earlier batches are.
        loss: any over rows, in place of the alignment; it needs labels.
        miner: chooses among the pairs of that loss, which must be a loss over pairs.
        k: neighbours of an image.
        rank_weight: factor of the rank loss over the labels of the batch, which is added where it is not 0: the mean
            over images i, alike images j and others k of log(1 + e^(s_ik - s_ij)).
        features: computed once before the first step, from the test view (cached), or in each step, from the first
            view of the batch (online); cached, no image is read in training, and none augmented.

    Raises:
        RecipeError: for an encoder that trains, a memory of learned rows, a miner without a loss, or beside one that
            takes none.
    """

    by_class = True
    remembers = "h"

    def __init__(
        self,
        network: Network,
        /,
        *,
        memory: Memory,
        loss: Loss | None = None,
        miner: Miner | None = None,
        k: Annotated[int, Ge(1)] = 10,
        rank_weight: Annotated[float, Ge(0)] = 0.0,
        features: Literal["cached", "online"] = "cached",
    ) -> None:
        super().__init__()
        _check(network, loss, miner)
        self.network, self.memory = network, memory
        self.loss, self.miner = loss, miner
        self.k, self.rank_weight = k, rank_weight
        self.rank_loss = PairLoss(rank_terms)
        self.trains_on = "features" if features == "cached" else "images"
        if any(name.startswith("memory.") for name, _ in self.named_parameters()):
            raise RecipeError(
                "method 'sxbm' remembers the features of images, and this memory has learned rows of its own",
                help='set memory.name = "features"',
            )
        self.train()

    def train(self, mode: bool = True) -> SXBM:
        super().train(mode)
        self.network.encoder.eval()  # whatever else trains: equal images have equal features
        return self

    def forward(self, batch: Batch) -> Outputs:
        features = batch.rows([self._features(batch)], labels=batch.labels)
        held = self.memory.rows()
        found = nearest_features(features, held, self.k)
        slots = _share(found)
        near = held[slots]
        # In one pass, so that a head with BatchNorm sees both sides in one batch.
        z = self.network.head(torch.cat([features.z, near.z]))
        neighbours = rows(z[len(features) :], near.labels, near.items, near.ids, near.views)
        own = batch.rows([z[: len(features)]], labels=batch.labels)
        return Outputs(own, features, neighbours, slots, *found)

    @torch.no_grad()
    def _features(self, batch: Batch) -> Float[Tensor, "n features"]:
        if batch.features is not None:
            return normalize(batch.features)
        features: Tensor = self.network.encoder(batch.views[0])
        return features

    def objective(self, local: Outputs, world: Outputs) -> Objective:
        here = is_neighbour(world.teacher)
        metrics = {
            "neighbours": here.sum() / max(1, len(here)),
            "agreement": _correlation(_student(world, world).detach(), world.teacher, here),
        }
        if self.loss is None:
            loss = _alignment(local, world)
            without_positives = (~here).all(1)
        else:
            references = concatenate([world.rows, _once(world.neighbours, world.rows)])
            loss = apply_loss(self.loss, local.rows, world.rows, references, miner=self.miner)
            without_positives = count_positives(world.rows, references) == 0
        # Images that teach nothing, in place of those that are alone of their class in the batch; none at the start.
        metrics["anchors_without_positives"] = (without_positives & here.any()).float().mean()
        if self.rank_weight > 0:
            loss = loss + self.rank_weight * self.rank_loss(local.rows, world.rows)
        return Objective(loss, metrics)

    def after_step(self, world: Outputs, step: int) -> None:
        self.memory.push(world.features)

    def embed(self, images: Float[Tensor, "n c h w"]) -> Embedded:
        h = self.network.encoder(images)
        return Embedded(h, self.network.head(normalize(h)))


def rank_terms(pairs: Pairs) -> dict[str, Term]:
    """The mean over (anchor i, positive j, negative k) of log(1 + e^(s_ik - s_ij)): equation 8."""
    total: Tensor = SoftTriplets.apply(pairs.similarity, pairs.positive, pairs.negative, 0.0)
    return {"triplets": Term(total, pairs.positive.sum(1) * pairs.negative.sum(1))}


def _check(network: Network, loss: Loss | None, miner: Miner | None) -> None:
    if any(parameter.requires_grad for parameter in network.encoder.parameters()):
        raise RecipeError(
            "method 'sxbm' compresses the features of a frozen encoder, and this one trains",
            help='set encoder.trainable = "none", and encoder.weights to a finished run, or encoder.pretrained = true',
        )
    if loss is not None and any(part.labels == "item" for part in parts_of(loss).values()):
        raise RecipeError(
            "method 'sxbm' has one view of each image, so a loss that takes each image for a class has no positives",
            help='leave out labels = "item"',
        )
    if loss is not None:
        check_miner_fits(loss, miner)
    elif miner is not None:
        raise RecipeError(
            "the miner has nothing to choose from: without a loss, method 'sxbm' aligns all neighbours",
            help="add [loss], or remove [miner]",
        )


@torch.no_grad()
def _share(found: Neighbours) -> Int64[Tensor, "m"]:
    """This rank's share of the slots that are near to any image of any rank, each once: k may be most of the memory."""
    used = torch.unique(distributed.gather(found.slots[is_neighbour(found.similarity)]))
    share: Tensor = used.tensor_split(distributed.world_size())[distributed.rank()]
    return share


def _student(outputs: Outputs, world: Outputs) -> Float[Tensor, "n k"]:
    """Cosine of the head's embeddings of each image and its neighbours, or of the image and itself for want of one."""
    own, near = outputs.rows.z, nn.functional.pad(world.neighbours.z, (0, 0, 0, 1))
    here = is_neighbour(outputs.teacher)
    order = world.slots.argsort()
    place = torch.searchsorted(world.slots[order], outputs.nearest)
    place = torch.where(here, nn.functional.pad(order, (0, 1))[place], len(order))
    # All against all, tile by tile, is less than the search among the features was, and k rows an image are not made.
    tile = anchors_per_tile(near)
    parts = [slice(start, start + tile) for start in range(0, max(1, len(own)), tile)]
    cosines = torch.cat([(own[part] @ near.T).gather(1, place[part]) for part in parts])
    return torch.where(here, cosines, own.square().sum(1, keepdim=True))


def _alignment(local: Outputs, world: Outputs) -> Float[Tensor, ""]:
    """The mean over ranks of this is the mean over all neighbours; 0, with a live gradient, where there is none."""
    student, here = _student(local, world), is_neighbour(local.teacher)
    # Zero times the student, and not zero: an embedding that is not a number is seen without neighbours too.
    gap = torch.where(here, (student - torch.where(here, local.teacher, 0)).abs(), 0 * student)
    return distributed.world_size() * gap.sum() / is_neighbour(world.teacher).sum().clamp(min=1)


@torch.no_grad()
def _once(neighbours: Rows, batch: Rows) -> Rows:
    """The neighbours with the label of each item known once at most, and of those in the batch never.

    A row of unknown label has no part in a loss. Chunks of a batch may each bring the same neighbour.
    """
    items = torch.cat([batch.items, neighbours.items])
    order = items.argsort(stable=True)  # of an item's rows, those of the batch come first
    first = torch.ones_like(items, dtype=torch.bool)
    first[order[1:]] = items[order][1:] != items[order][:-1]
    labels = torch.where(first[len(batch) :], neighbours.labels, -1)
    return Rows(neighbours.z, labels, neighbours.items, neighbours.ids, neighbours.views)


def _correlation(
    one: Float[Tensor, "n k"], other: Float[Tensor, "n k"], here: Bool[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """Of the cells that are there; 0 where they do not vary."""
    count = here.sum().clamp(min=1)
    centred = []
    for values in (one, other):
        values = torch.where(here, values, 0)
        centred.append(torch.where(here, values - values.sum() / count, 0))
    first, second = centred
    scale = (first.square().sum() * second.square().sum()).sqrt()
    return (first * second).sum() / scale.clamp(min=torch.finfo(scale.dtype).tiny)
