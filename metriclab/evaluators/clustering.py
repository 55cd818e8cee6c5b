"""Clustering: whether the classes are the clusters of the embedding."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int

from metriclab.core.progress import ProgressGenerator
from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.errors import needing
from metriclab.evaluators.call import call_evaluator
from metriclab.ranking.keys import check_finite
from metriclab.registry import register

with needing("clustering", "scikit-learn", "evaluator 'clustering'"):
    from sklearn.cluster import KMeans, MiniBatchKMeans  # type: ignore[import-untyped]
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
    from sklearn.metrics import (  # type: ignore[import-untyped]
        adjusted_mutual_info_score,
        normalized_mutual_info_score,
    )

LARGE = 10_000
"""Rows beyond which k-means goes through them in batches."""

MANY = 1_000
"""Clusters beyond which k-means starts from random rows: k-means++ would take longer than all the rest."""

_RULES = (
    "of the classes and the clusters of k-means on unit-norm embeddings, k being the number of classes, over the "
    "queries of known label (>= 0), with the arithmetic mean of both entropies as norm; scikit-learn's KMeans (10 "
    f"starts), beyond {LARGE:,} rows its MiniBatchKMeans (3 starts, batches of 4,096), started by k-means++, beyond "
    f"{MANY:,} classes by random rows (1 start), seed 0; undefined where all queries have one class, or each one of "
    "its own (clustering/1)."
)


@register("evaluator", "clustering")
@dataclass(frozen=True)
class Clustering:
    """Normalised and adjusted mutual information of the classes and the clusters of k-means. The gallery is not used.

    The adjusted one is 0 for clusters drawn by chance; the normalised one grows with the number of classes even then.

    scikit-learn comes with the extra `clustering`: `pip install "metriclab-toolkit[clustering]"`.

    Paper: N. X. Vinh, J. Epps, J. Bailey. Information Theoretic Measures for Clusterings Comparison. JMLR 2010.

    Example:
        >>> z, labels = torch.eye(3).repeat(2, 1), [0, 1, 2, 0, 1, 2]
        >>> round(Clustering()(z, labels)["ami"].value, 6)
        1.0
    """

    __call__ = call_evaluator

    def steps(self, queries: Rows, gallery: Rows, /) -> ProgressGenerator[dict[str, Score]]:
        """`nmi` and `ami`, which no single query has.

        Args:
            queries: rows to cluster; those with a negative label are passed over.
            gallery: not used.

        Raises:
            DivergedError: where an embedding is not finite.
        """
        check_finite(queries.z, "queries")
        # In the order of items, so that the order of rows does not matter.
        rows = queries[queries.labels >= 0]
        rows = rows[rows.items.argsort(stable=True)]
        labels = torch.unique(rows.labels, return_inverse=True)[1].cpu().numpy()
        classes = int(labels.max(initial=-1)) + 1
        nmi = ami = float("nan")
        if 1 < classes < len(labels):
            clusters = k_means(rows.z.detach().double().cpu().numpy(), classes)
            nmi = float(normalized_mutual_info_score(labels, clusters))
            ami = float(adjusted_mutual_info_score(labels, clusters))
        nothing = torch.empty(0, dtype=torch.float64)
        yield 1.0
        return {
            "nmi": Score(nmi, nothing, f"Normalised mutual information {_RULES}"),
            "ami": Score(ami, nothing, f"Adjusted mutual information {_RULES}"),
        }


def k_means(x: Float64[np.ndarray, "n d"], k: int) -> Int[np.ndarray, "n"]:
    """The cluster of each row."""
    settings: dict[str, Any] = {"n_clusters": k, "random_state": 0, "init": "k-means++" if k <= MANY else "random"}
    starts = 1 if k > MANY else 3 if len(x) > LARGE else 10
    if len(x) > LARGE:
        model = MiniBatchKMeans(**settings, n_init=starts, batch_size=4096)
    else:
        model = KMeans(**settings, n_init=starts)
    with warnings.catch_warnings():
        # Fewer different rows than clusters: some clusters stay empty, as they should.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters: np.ndarray = model.fit_predict(x)
    return clusters
