"""The places of a memory that holds a fixed number of rows."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from metriclab.core.rows import Rows, normalize, wide

Precision = Literal["float32", "float16", "bfloat16"]

EMPTY = -(2**62)
"""Item and id of the first slot while it is empty; those of the others lie below it."""


class Slots(nn.Module):
    """Rows in slots, all of them buffers. An empty slot has an item and an id too, so shapes stay while it fills.

    Args:
        size: number of slots.
        embedding_dim: dimensions of a row.
        dtype: of the stored embeddings.
    """

    z: Tensor
    labels: Tensor
    items: Tensor
    ids: Tensor
    views: Tensor
    groups: Tensor
    categories: Tensor

    def __init__(self, size: int, embedding_dim: int, dtype: Precision) -> None:
        super().__init__()
        empty = EMPTY - torch.arange(size)
        self.register_buffer("z", torch.zeros(size, embedding_dim, dtype=getattr(torch, dtype)))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("items", empty)
        self.register_buffer("ids", empty.clone())
        self.register_buffer("views", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("groups", torch.full((size,), -1))
        self.register_buffer("categories", torch.full((size,), -1))
        self.register_load_state_dict_pre_hook(_without_groups)  # type: ignore[no-untyped-call]  # of torch

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self) -> Rows:
        """All slots; an empty one is a zero row of unknown label, a negative item and an id of its own."""
        z = wide(self.z) if self.z.dtype in (torch.float32, torch.float64) else normalize(self.z)
        return Rows(z, self.labels, self.items, self.ids, self.views, self.groups, self.categories)

    def write(self, slots: Int64[Tensor, "n"], new: Rows, stored: Bool[Tensor, "n"]) -> None:
        """Puts each new row into its slot, all of them different; where it is not to be stored, the old one stays."""
        unknown = torch.full_like(new.labels, -1)
        for name in ("z", "labels", "items", "ids", "views", "groups", "categories"):
            kept, value = getattr(self, name), getattr(new, name)
            value = unknown if value is None else value
            chosen = stored.reshape(-1, *[1] * (value.dim() - 1))
            kept[slots] = torch.where(chosen, value.to(kept.dtype), kept[slots])


def _without_groups(slots: Slots, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A state from before rows had groups: they are unknown."""
    for name in ("groups", "categories"):
        state.setdefault(prefix + name, getattr(slots, name).clone().fill_(-1))
