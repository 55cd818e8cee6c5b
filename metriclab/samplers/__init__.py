"""Samplers: the order in which a run sees its items."""

from typing import TYPE_CHECKING

from metriclab.lazy import exports

if TYPE_CHECKING:
    from metriclab.samplers.balanced import Balanced as Balanced
    from metriclab.samplers.hard_negatives import HardNegatives as HardNegatives
    from metriclab.samplers.shuffled import Shuffled as Shuffled
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        Balanced="balanced",
        HardNegatives="hard_negatives",
        Shuffled="shuffled",
    )
