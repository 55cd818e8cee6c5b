"""The ring: the embeddings of the last steps, first in, first out."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from metriclab.core.rows import Rows
from metriclab.core.settings import show_settings
from metriclab.memories.slots import Precision, Slots
from metriclab.registry import register

_LOWEST = torch.iinfo(torch.int64).min


@register("memory", "ring")
class Ring(nn.Module):
    """The newest rows that were pushed, as many as fit; each new one takes the place of the oldest.

    The rows of one push enter in the order of their ids, so ranks that push the same rows in any order hold the same
    memory; of a push that is larger than the memory, those with the highest ids stay. A row that is not finite is never
    stored. In `eval()` nothing is. No push or read waits for the device.

    Paper: Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020.

    Args:
        embedding_dim: dimensions of the embeddings.
        size: rows that it holds.
        dtype: of the stored embeddings; half precision halves the memory they take. They are read in float32.

    Example:
        >>> memory, batch = Ring(8, size=4096), rows(torch.randn(6, 8), [0, 0, 1, 1, 2, 2])
        >>> memory.push(batch)
        >>> int((memory.rows().labels >= 0).sum())  # the others are empty places, of unknown label
        6
    """

    extra_repr = show_settings
    pointer: Tensor
    count: Tensor

    def __init__(self, embedding_dim: int, /, *, size: Annotated[int, Ge(1)], dtype: Precision = "float32") -> None:
        super().__init__()
        self.size, self.dtype = size, dtype
        self.slots = Slots(size, embedding_dim, dtype)
        self.register_buffer("pointer", torch.tensor(0))  # the slot that is written next
        self.register_buffer("count", torch.tensor(0))

    def rows(self) -> Rows:
        """All slots, in no order that matters, in float32 or better.

        An empty slot is a zero row of unknown label and an id of its own: it is neither positive nor negative to any
        row, so no loss sees it. The tensors may be the memory's own: a later push changes them.
        """
        return self.slots.rows()

    @torch.no_grad()
    def push(self, rows: Rows, /) -> None:
        """Stores rows without their gradient, each of which must have an id that no stored row has."""
        if not self.training or len(rows) == 0:
            return
        size = len(self.slots)
        finite = rows.z.isfinite().all(1)
        # Refused rows sort first. They get the slots just before the pointer, to which they give back what is there:
        # how many they are need not be known here, and all slots of a push are different.
        order = torch.where(finite, rows.ids, _LOWEST).argsort(stable=True)[-size:]
        new, stored = rows[order], finite[order]
        accepted = stored.sum()
        slots = (self.pointer + accepted - len(new) + torch.arange(len(new), device=order.device)) % size
        self.slots.write(slots, new, stored)
        self.pointer.add_(accepted).remainder_(size)
        self.count.add_(accepted).clamp_(max=size)
