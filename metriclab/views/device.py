"""Whether the shape of the work may depend on values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def is_cpu(x: Tensor) -> bool:
    """Whether values can be looked at without waiting for a GPU: then what changes nothing is passed over."""
    return x.device.type == "cpu"


def change_(
    x: Float[Tensor, "n c h w"],
    function_: Callable[[Tensor, Tensor], Any],
    by: Shaped[Tensor, "n *_p"],
    changing: Callable[[Tensor], Tensor],
) -> None:
    """Changes samples in place, by `function_(x, by)`.

    A CPU passes over those that it would leave as they are: it changes neighbours among the others together, in place,
    without a copy. Elsewhere, to know them is to wait for a GPU.

    Args:
        by: what the function is given of each sample.
        changing: of `by`: which samples are changed, as n bools.
    """
    if not is_cpu(x):
        function_(x, by)
        return
    for part in _neighbours(changing(by)):
        function_(x[part], by[part])


def _neighbours(chosen: Bool[Tensor, "n"]) -> Iterator[slice]:
    """The chosen as slices, as few as there can be."""
    start = None
    for place, one in enumerate([*chosen.tolist(), False]):
        if one and start is None:
            start = place
        elif not one and start is not None:
            yield slice(start, place)
            start = None
