"""Features: what a frozen encoder made of the last items, each of them once."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from metriclab.core.rows import Rows
from metriclab.core.settings import show_settings
from metriclab.memories.slots import EMPTY, Precision, Slots
from metriclab.registry import register

_LOWEST = torch.iinfo(torch.int64).min


@register("memory", "features")
class Features(nn.Module):
    """The items that were pushed last, as many as fit, with one row each; an item pushed again becomes the newest.

    For features that do not change in training: a row never grows old, and a second copy of an item would say nothing
    new. The rows of one push enter in the order of their ids, so ranks that push the same rows in any order hold the
    same memory; of several rows of an item that with the highest id stays, and of a push that is larger than the
    memory those with the highest ids. A row that is not finite is never stored. In `eval()` nothing is. No push or read
    waits for the device.

    Paper: Zhang et al., SMEC: Rethinking Matryoshka Representation Learning for Retrieval Embedding Compression,
    EMNLP 2025, arXiv 2510.12474, section S-XBM.

    Args:
        embedding_dim: dimensions of the features.
        size: items that it holds.
        dtype: of the stored features; half precision halves the memory they take. They are read in float32.
    """

    extra_repr = show_settings
    age: Tensor

    def __init__(self, embedding_dim: int, /, *, size: Annotated[int, Ge(1)], dtype: Precision = "float32") -> None:
        super().__init__()
        self.size, self.dtype = size, dtype
        self.slots = Slots(size, embedding_dim, dtype)
        self.register_buffer("age", -1 - torch.arange(size))  # the higher, the newer; negative while a slot is empty

    def rows(self) -> Rows:
        """All slots, in no order that matters, in float32 or better.

        An empty slot is a zero row of unknown label, with a negative item and an id of its own: it is neither positive
        nor negative to any row. The tensors may be the memory's own: a later push changes them.
        """
        return self.slots.rows()

    @torch.no_grad()
    def push(self, rows: Rows, /) -> None:
        """Stores rows without their gradient."""
        if not self.training or len(rows) == 0:
            return
        accepted = _newest_of_each_item(rows)
        # The newest first; refused rows last, whose slots get back what is there: all shapes are known beforehand.
        order = torch.where(accepted, rows.ids, _LOWEST).argsort(descending=True, stable=True)[: len(self.slots)]
        new, stored = rows[order], accepted[order]
        # The older copies go before all others. There are no more of them than accepted rows, which come first.
        gone = _are_among(self.slots.items, torch.where(stored, new.items, _LOWEST))
        precedence = torch.where(gone, _LOWEST + torch.arange(len(gone), device=gone.device), self.age)
        slots = precedence.topk(len(new), largest=False).indices
        age = self.age.amax().clamp(min=-1) + len(new) - torch.arange(len(new), device=gone.device)
        self.slots.write(slots, new, stored)
        self.age[slots] = torch.where(stored, age, self.age[slots])


def _newest_of_each_item(rows: Rows) -> Bool[Tensor, "n"]:
    """The finite row of the highest id for each item."""
    finite = rows.z.isfinite().all(1)
    items = torch.where(finite, rows.items, EMPTY)
    order = rows.ids.argsort(stable=True)
    order = order[items[order].argsort(stable=True)]  # by item, then by id
    ordered = items[order]
    last = torch.ones_like(finite)
    last[:-1] = ordered[1:] != ordered[:-1]
    newest = torch.empty_like(finite)
    newest[order] = last
    return newest & finite


def _are_among(items: Int64[Tensor, "m"], others: Int64[Tensor, "n"]) -> Bool[Tensor, "m"]:
    """`torch.isin`, which waits for the device where there are many others."""
    ordered = others.sort().values
    place = torch.searchsorted(ordered, items).clamp(max=len(ordered) - 1)
    return ordered[place] == items
