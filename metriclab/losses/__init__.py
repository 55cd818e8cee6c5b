"""Losses: each a class to call with embeddings and labels, or with anchors and references."""

from typing import TYPE_CHECKING

from metriclab.lazy import exports

if TYPE_CHECKING:
    from metriclab.losses.class_softmax import ArcFace as ArcFace
    from metriclab.losses.class_softmax import CosFace as CosFace
    from metriclab.losses.class_softmax import NormalizedSoftmax as NormalizedSoftmax
    from metriclab.losses.composite import Composite as Composite
    from metriclab.losses.composite import Part as Part
    from metriclab.losses.composite import matryoshka as matryoshka
    from metriclab.losses.contrastive import Contrastive as Contrastive
    from metriclab.losses.logistic import Logistic as Logistic
    from metriclab.losses.multi_similarity import MultiSimilarity as MultiSimilarity
    from metriclab.losses.n_pair import NPair as NPair
    from metriclab.losses.nt_xent import NTXent as NTXent
    from metriclab.losses.pml import PML as PML
    from metriclab.losses.proxies import ProxyAnchor as ProxyAnchor
    from metriclab.losses.proxies import ProxyNCA as ProxyNCA
    from metriclab.losses.supcon import SupCon as SupCon
    from metriclab.losses.triplet import Triplet as Triplet
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        ArcFace="class_softmax",
        Composite="composite",
        Contrastive="contrastive",
        CosFace="class_softmax",
        Logistic="logistic",
        MultiSimilarity="multi_similarity",
        NPair="n_pair",
        NormalizedSoftmax="class_softmax",
        NTXent="nt_xent",
        PML="pml",
        Part="composite",
        ProxyAnchor="proxies",
        ProxyNCA="proxies",
        SupCon="supcon",
        Triplet="triplet",
        matryoshka="composite",
    )
