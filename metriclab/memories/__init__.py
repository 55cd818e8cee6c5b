"""Memories: rows that outlive a batch, `loss(batch, memory.rows()); memory.push(batch)`."""

from typing import TYPE_CHECKING

from metriclab.lazy import exports

if TYPE_CHECKING:
    from metriclab.memories.features import Features as Features
    from metriclab.memories.proxies import Proxies as Proxies
    from metriclab.memories.ring import Ring as Ring
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        Features="features",
        Proxies="proxies",
        Ring="ring",
    )
