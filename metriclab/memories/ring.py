"""The ring: the embeddings of the last steps, first in, first out."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from metriclab.core.rows import Rows, normalize, wide
from metriclab.registry import register

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_EMPTY_ID = -(2**62)
_LOWEST = torch.iinfo(torch.int64).min


@register("memory", "ring")
class Ring(nn.Module):
    """The newest rows that were pushed, as many as fit; each new one takes the place of the oldest.

    The rows of one push enter in the order of their ids, so ranks that push the same rows in any order hold the same
    memory; of a push that is larger than the memory, those with the highest ids stay. A row that is not finite is never
    stored. In `eval()` nothing is. No push or read waits for the device.

    Paper: Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020.

    Args:
        width: dimensions of the embeddings.
        classes: training labels, of which this memory needs nothing.
        size: rows that it holds.
        dtype: of the stored embeddings; half precision halves the memory they take. They are read in float32.
    """

    z: Tensor
    labels: Tensor
    items: Tensor
    ids: Tensor
    views: Tensor
    pointer: Tensor
    count: Tensor

    def __init__(
        self,
        width: int,
        classes: Int64[Tensor, "c"],
        /,
        *,
        size: Annotated[int, Ge(1)],
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        # Empty slots have ids too, which nothing else has: so shapes stay the same while the memory fills.
        empty = _EMPTY_ID - torch.arange(size)
        self.register_buffer("z", torch.zeros(size, width, dtype=_DTYPES[dtype]))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("items", empty)
        self.register_buffer("ids", empty.clone())
        self.register_buffer("views", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("pointer", torch.tensor(0))  # the slot that is written next
        self.register_buffer("count", torch.tensor(0))

    def rows(self) -> Rows:
        """All slots, in no order that matters, in float32 or better.

        An empty slot is a zero row of unknown label and an id of its own: it is neither positive nor negative to any
        row, so no loss sees it. The tensors may be the memory's own: a later push changes them.
        """
        z = wide(self.z) if self.z.dtype in (torch.float32, torch.float64) else normalize(self.z)
        return Rows(z, self.labels, self.items, self.ids, self.views)

    @torch.no_grad()
    def push(self, rows: Rows, /) -> None:
        """Stores rows without their gradient, each of which must have an id that no stored row has."""
        if not self.training or len(rows) == 0:
            return
        size = len(self.labels)
        finite = rows.z.isfinite().all(1)
        # Refused rows sort first. They get the slots just before the pointer, to which they give back what is there:
        # how many they are need not be known here, and all slots of a push are different.
        order = torch.where(finite, rows.ids, _LOWEST).argsort(stable=True)[-size:]
        new, stored = rows[order], finite[order]
        accepted = stored.sum()
        slots = (self.pointer + accepted - len(new) + torch.arange(len(new), device=order.device)) % size
        for kept, value in (
            (self.z, new.z),
            (self.labels, new.labels),
            (self.items, new.items),
            (self.ids, new.ids),
            (self.views, new.views),
        ):
            kept[slots] = torch.where(_column(stored, value), value.to(kept.dtype), kept[slots])
        self.pointer.add_(accepted).remainder_(size)
        self.count.add_(accepted).clamp_(max=size)


def _column(mask: Bool[Tensor, "n"], value: Tensor) -> Bool[Tensor, "n *ones"]:
    """The mask, to choose among the rows of the value."""
    return mask.reshape(-1, *[1] * (value.dim() - 1))
