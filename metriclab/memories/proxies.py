"""Proxies: learned rows that stand for the training classes."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Int64
from torch import Tensor, nn

from metriclab.core.rows import Labels, Rows, as_labels, normalize
from metriclab.core.settings import show_settings
from metriclab.errors import RecipeError
from metriclab.registry import register

_FIRST_ID = -(2**61)


@register("memory", "proxies")
class Proxies(nn.Module):
    """One learned row, or several, for each training class: images are held against classes in place of images.

    Nothing is ever pushed into it; its rows are parameters and learn by the gradient of the loss. They are the group
    `memory` of the optimizer, and usually learn much faster than the network: optimizer.groups = {memory = 100.0}.
    They are read with norm 1 and begin in random directions, as rows of standard normal numbers, or each where the mean
    of its class's images lies from the mean of all (`imprint`). The latter needs features that already say something of
    the classes. It saves the steps in which random directions are learned, hundreds for hundreds of classes, while they
    pull a pretrained encoder apart.

    Paper: Movshovitz-Attias et al., No Fuss Distance Metric Learning using Proxies, ICCV 2017; for their start in the
        mean, Qi et al., Low-Shot Learning with Imprinted Weights, CVPR 2018.

    Args:
        embedding_dim: dimensions of the embeddings.
        classes: sorted training labels; by hand also a list or numpy array of them.
        per_class: rows a class; several for classes of several looks. What they mean is up to the loss.
        start: where they begin: in the mean of their class, as the network embeds it before the first step ("means"),
            or in a "random" direction; by default in the mean where the encoder has loaded weights.

    Raises:
        RecipeError: where there is no class.

    Example:
        >>> proxies = Proxies(8, range(3))
        >>> len(proxies.rows())
        3
    """

    extra_repr = show_settings
    labels: Tensor
    ids: Tensor

    def __init__(
        self,
        embedding_dim: int,
        classes: Int64[Tensor, "c"] | Labels,
        /,
        *,
        per_class: Annotated[int, Ge(1)] = 1,
        start: Literal["means", "random"] | None = None,
    ) -> None:
        super().__init__()
        self.per_class: int = per_class
        self.start: Literal["means", "random"] | None = start
        if len(classes) == 0:
            raise RecipeError(
                "the memory 'proxies' holds a row for each training class, but the training split has no labels",
                help="choose data with labels, or a memory of embeddings, such as ring",
            )
        labels = as_labels(classes).repeat_interleave(per_class)
        self.directions = nn.Parameter(torch.randn(len(labels), embedding_dim))
        self.register_buffer("labels", labels)
        self.register_buffer("ids", _FIRST_ID - torch.arange(len(labels)))

    def rows(self) -> Rows:
        """All proxies, class by class, with their gradient; their items are their ids, which are negative."""
        return Rows(normalize(self.directions), self.labels, self.ids, self.ids, torch.zeros_like(self.labels))

    @torch.no_grad()
    def imprint(self, images: Rows, /) -> None:
        """Puts each proxy into the mean of embedded images of its class, seen from the mean of all these means.

        What all images share would else make every proxy a neighbour of every image. Several proxies of a class share
        its images out among them, one image each where it has too few; proxies of a class without images stay.
        """
        order = images.labels.argsort(stable=True)
        labels = images.labels[order]
        starts, stops = (torch.searchsorted(labels, self.labels, right=right).tolist() for right in (False, True))
        means: dict[int, Tensor] = {}
        for place, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            first = place % self.per_class
            if start < stop:
                mine = order[start + first : stop : self.per_class]
                means[place] = images.z[mine if len(mine) else order[start + first % (stop - start)][None]].mean(0)
        if means:
            apart = torch.stack(list(means.values()))
            unit = normalize(apart - apart.mean(0))
            far = unit.isfinite().all(1) & (unit != 0).any(1)  # those of equal images lie in no direction
            places = torch.tensor(list(means), device=far.device)
            self.directions[places[far]] = self.directions.shape[1] ** 0.5 * unit[far]  # as long as random ones

    def push(self, rows: Rows, /) -> None:
        """Does nothing: proxies learn and do not remember."""
