"""Evaluators: measures of embeddings, each `evaluator(z, labels)` or `evaluator(queries, gallery)`."""

from typing import TYPE_CHECKING

from metriclab.lazy import exports

if TYPE_CHECKING:
    from metriclab.evaluators.clustering import Clustering as Clustering
    from metriclab.evaluators.health import Health as Health
    from metriclab.evaluators.knn import KNN as KNN
    from metriclab.evaluators.prefixes import Prefixes as Prefixes
    from metriclab.evaluators.probes.linear import LinearProbe as LinearProbe
    from metriclab.evaluators.probes.mlp import MLPProbe as MLPProbe
    from metriclab.evaluators.retrieval import Retrieval as Retrieval
    from metriclab.evaluators.robustness import Robustness as Robustness
    from metriclab.evaluators.transfer import Transfer as Transfer
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        Clustering="clustering",
        Health="health",
        KNN="knn",
        LinearProbe="probes.linear",
        MLPProbe="probes.mlp",
        Prefixes="prefixes",
        Retrieval="retrieval",
        Robustness="robustness",
        Transfer="transfer",
    )
