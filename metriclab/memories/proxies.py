"""Proxies: learned rows that stand for the training classes."""

from __future__ import annotations

from typing import Annotated

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
    They are read with norm 1 and begin in random directions, as rows of standard normal numbers.

    Paper: Movshovitz-Attias et al., No Fuss Distance Metric Learning using Proxies, ICCV 2017.

    Args:
        embedding_dim: dimensions of the embeddings.
        classes: sorted training labels; by hand also a list or numpy array of them.
        per_class: rows a class; several for classes of several looks. What they mean is up to the loss.

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
        self, embedding_dim: int, classes: Int64[Tensor, "c"] | Labels, /, *, per_class: Annotated[int, Ge(1)] = 1
    ) -> None:
        super().__init__()
        self.per_class = per_class
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

    def push(self, rows: Rows, /) -> None:
        """Does nothing: proxies learn and do not remember."""
