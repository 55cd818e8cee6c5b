"""No miner: every pair is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from metriclab.core.pairs import Pairs
from metriclab.registry import register


@register("miner", "none")
@dataclass(frozen=True, kw_only=True)
class NoMiner:
    """All pairs, as without a miner. In a recipe it is none: a suite's entry drops the miner of its base by it."""

    def __call__(self, pairs: Pairs, /) -> Pairs:
        return pairs
