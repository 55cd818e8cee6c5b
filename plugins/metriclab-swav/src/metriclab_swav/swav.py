"""SwAV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from metriclab.api import (
    Batch,
    Memory,
    Network,
    Objective,
    PairLoss,
    Pairs,
    RecipeError,
    Rows,
    RunStep,
    Term,
    register,
)
from metriclab_swav.sinkhorn import sinkhorn

_FIRST_ID = -(2**60)
"""Of the prototypes: an id that no image and no empty place of a memory has."""


class Outputs(NamedTuple):
    """What this rank's images give.

    Attributes:
        rows: embeddings of all views, view by view; their labels are the positions of the images.
        images: positions of the images in the global batch.
    """

    rows: Rows
    images: Int64[Tensor, "n"]


@register("method", "swav")
class SwAV(nn.Module):
    """Views of an image predict each other's codes: which of many learned prototypes the image belongs to.

    The first views are given codes, by spreading the images of all ranks evenly over the prototypes; that they are
    spread evenly keeps the embeddings from collapsing, and no image is held against another. Every view, small crops of
    `multi-crop` included, predicts the codes of the others. Codes carry no gradient. The prototypes are the group
    `prototypes` of the optimizer; their rows have norm 1 before every step.

    With a memory, a ring, rows of earlier batches are spread over the prototypes together with those of this one, for
    each of the first views by itself, and only this batch's codes are used: for a batch that is small beside the number
    of prototypes. Rows that are too old do harm: the loss rises when they begin to count.

    Views of one size go through encoder and head as one batch for BatchNorm. The authors' code (facebookresearch/swav,
    commit 04b8f43) does so in the encoder; its head sees the views of all sizes at once.

    Logged are `prototypes_used`, how many prototypes are the nearest to some row of the batch, as a share of the most
    that there can be, and `code_entropy`, the mean entropy of a code, from 0 where it is a single prototype to 1 where
    it is all of them alike. Collapse shows as few prototypes used and an entropy near 1. With a memory, `memory_filled`
    is the share of its rows that are taken.

    Paper: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020,
    arXiv 2006.09882.

    Args:
        network: encoder and head.
        memory: a ring for embeddings of earlier batches; the paper's has 15 batches of 256 rows, of each of 2 views.
        prototypes: how many; 3,000 for the 1,000 classes of ImageNet. More than there are classes does little harm.
        code_views: how many of the first views have codes; 2 in the paper, the large crops.
        temperature: of the predictions.
        epsilon: how soft codes are; large ones make all rows' codes alike.
        iterations: of Sinkhorn and Knopp's algorithm.
        freeze_prototypes: steps at the start in which the prototypes stay as they began; an epoch in the paper.
        queue_start: first step whose codes take the memory into account, counted from 0; the paper waits 15 epochs.

    Raises:
        RecipeError: for a memory of learned rows, for `queue_start` without a memory, and in the first step for fewer
            than 2 views or than `code_views`.
    """

    done: Tensor

    def __init__(
        self,
        network: Network,
        /,
        *,
        memory: Memory | None = None,
        prototypes: Annotated[int, Ge(2)] = 3000,
        code_views: Annotated[int, Ge(1)] = 2,
        temperature: Annotated[float, Gt(0)] = 0.1,
        epsilon: Annotated[float, Gt(0)] = 0.05,
        iterations: Annotated[int, Ge(1)] = 3,
        freeze_prototypes: Annotated[int, Ge(0), RunStep("the prototypes never train")] = 0,
        queue_start: Annotated[int, Ge(0), RunStep("the memory is never used")] = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.memory = memory
        _check_memory(self, queue_start)
        width: Any = network.head.out_features
        self.prototypes = nn.Linear(width, prototypes, bias=False)
        nn.init.normal_(self.prototypes.weight)
        self._normalize_prototypes()
        self.code_views = code_views
        self.temperature = temperature
        self.epsilon, self.iterations = epsilon, iterations
        self.freeze_prototypes = freeze_prototypes
        self.queue_start = queue_start
        self.register_buffer("done", torch.tensor(0))  # steps

    def forward(self, batch: Batch) -> Outputs:
        if len(batch.views) < max(2, self.code_views):
            raise RecipeError(
                f"method 'swav' has codes of {self.code_views} views predicted from others, and an image has "
                f"{len(batch.views)}",
                help=f"set views.count to at least {max(2, self.code_views)}",
            )
        embedded = self.network.views(batch.views)
        return Outputs(batch.rows([view.z for view in embedded], labels=batch.positions), batch.positions)

    def objective(self, local: Outputs, world: Outputs) -> Objective:
        coded = self._with_codes(world)
        scores = coded.z.detach() @ self.prototypes.weight.detach().T
        codes = self._codes(coded, scores)
        images = coded.labels[:: self.code_views].contiguous()
        terms = partial(swapped_terms, codes=codes, images=images, temperature=self.temperature)
        # A sum over this rank's rows alone, over the count of all ranks: a prediction is held against prototypes only.
        loss = PairLoss(terms)(local.rows, self._references())
        return Objective(loss, self._metrics(scores, codes))

    @torch.no_grad()
    def after_step(self, world: Outputs, step: int) -> None:
        self._normalize_prototypes()
        if self.memory is not None:
            self.memory.push(self._with_codes(world).detach())
        self.done.fill_(step + 1)

    def _with_codes(self, world: Outputs) -> Rows:
        """The rows of the first views, image by image in the order of the global batch."""
        # All views of an image come from one rank, in their order, which a stable sort keeps.
        order = world.rows.labels.argsort(stable=True).view(len(world.images), -1)
        return world.rows[order[:, : self.code_views].flatten()]

    def _references(self) -> Rows:
        weight = self.prototypes.weight
        # A choice and no branch: the step is a buffer, and reading it would wait for the device.
        weight = torch.where(self.done >= self.freeze_prototypes, weight, weight.detach())
        ids = _FIRST_ID - torch.arange(len(weight), device=weight.device)
        return Rows(weight, torch.full_like(ids, -1), ids, ids, torch.zeros_like(ids))

    @torch.no_grad()
    def _codes(self, coded: Rows, scores: Float[Tensor, "rows k"]) -> Float[Tensor, "n views k"]:
        """The codes of each view's images, those in memory spread over the prototypes with them."""
        codes = []
        for view in range(self.code_views):
            own = scores[view :: self.code_views]
            everything, counted = own, torch.ones_like(own[:, 0], dtype=torch.bool)
            if self.memory is not None:
                earlier = self.memory.rows()
                usable = (earlier.labels >= 0) & (earlier.views == view) & (self.done >= self.queue_start)
                everything = torch.cat([own, (earlier.z @ self.prototypes.weight.T).to(own.dtype)])
                counted = torch.cat([counted, usable])
            codes.append(sinkhorn(everything, counted, self.epsilon, self.iterations)[: len(own)])
        return torch.stack(codes, 1)

    @torch.no_grad()
    def _metrics(
        self, scores: Float[Tensor, "rows k"], codes: Float[Tensor, "n views k"]
    ) -> Mapping[str, Float[Tensor, ""]]:
        rows, count = scores.shape
        nearest = scores.new_zeros(count).index_fill(0, scores.argmax(1), 1)
        entropy = -torch.special.xlogy(codes, codes).sum(2).mean() / math.log(count)
        metrics = {"prototypes_used": nearest.sum() / min(rows, count), "code_entropy": entropy}
        if self.memory is not None:
            metrics["memory_filled"] = (self.memory.rows().labels >= 0).to(scores.dtype).mean()
        return metrics

    @torch.no_grad()
    def _normalize_prototypes(self) -> None:
        self.prototypes.weight.copy_(normalize(self.prototypes.weight))


def swapped_terms(
    pairs: Pairs, codes: Float[Tensor, "n views k"], images: Int64[Tensor, "n"], temperature: float
) -> dict[str, Term]:
    """Equations 1 and 2: cross entropy of a view's softmax over prototypes with each code of the image's other views.

    Args:
        pairs: of embeddings, labelled by their image, and prototypes.
        codes: of the first views of all images.
        images: labels of the codes, sorted.
        temperature: of the softmax.
    """
    of_image = codes[torch.searchsorted(images, pairs.anchors.labels)]
    swapped = pairs.anchors.views[:, None] != torch.arange(codes.shape[1], device=codes.device)
    target = (of_image * swapped[:, :, None]).sum(1)
    cost = -(target * log_softmax(pairs.similarity / temperature, 1)).sum(1)
    return {"swapped": Term(cost, swapped.sum(1))}


def _check_memory(method: SwAV, queue_start: int) -> None:
    if method.memory is None and queue_start > 0:
        raise RecipeError(
            f"queue_start = {queue_start} says when the memory counts, and method 'swav' has none",
            help='add [memory] with name = "ring", or remove queue_start',
        )
    if any(name.startswith("memory.") for name, _ in method.named_parameters()):
        raise RecipeError(
            "method 'swav' remembers the embeddings of images, and this memory has learned rows of its own",
            help='set memory.name = "ring"',
        )
