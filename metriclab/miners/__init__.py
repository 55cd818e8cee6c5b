"""Miners: each chooses among the pairs that a loss sees, `loss(z, labels, miner=MultiSimilarity())`."""

from typing import TYPE_CHECKING

from metriclab.lazy import exports

if TYPE_CHECKING:
    from metriclab.miners.batch_hard import BatchHard as BatchHard
    from metriclab.miners.distance_weighted import DistanceWeighted as DistanceWeighted
    from metriclab.miners.false_negatives import FalseNegatives as FalseNegatives
    from metriclab.miners.hardness import EasyPairs as EasyPairs
    from metriclab.miners.hardness import HardPairs as HardPairs
    from metriclab.miners.hardness import SemihardPairs as SemihardPairs
    from metriclab.miners.multi_similarity import MultiSimilarity as MultiSimilarity
    from metriclab.miners.none import NoMiner as NoMiner
    from metriclab.miners.same_category import SameCategory as SameCategory
    from metriclab.miners.top_k_negatives import TopKNegatives as TopKNegatives
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        BatchHard="batch_hard",
        DistanceWeighted="distance_weighted",
        EasyPairs="hardness",
        FalseNegatives="false_negatives",
        HardPairs="hardness",
        MultiSimilarity="multi_similarity",
        NoMiner="none",
        SameCategory="same_category",
        SemihardPairs="hardness",
        TopKNegatives="top_k_negatives",
    )
