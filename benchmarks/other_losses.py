"""Losses of other libraries that are not called with tensors alone, each as a class that is: for `check-loss`.

Nothing is changed in what they compute. Those of sentence-transformers get their embeddings from a model; here they are
given them at the place where they would have them from it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

LIGHTLY, PML, ST = "lightly", "pytorch-metric-learning", "sentence-transformers"


class CrossBatchMemory(nn.Module):
    """pytorch-metric-learning's memory around one of its losses."""

    def __init__(self, loss: str = "ContrastiveLoss", memory_size: int = 48, dim: int = 16) -> None:
        super().__init__()
        from pytorch_metric_learning import losses

        self.inner = losses.CrossBatchMemory(getattr(losses, loss)(), dim, memory_size=memory_size)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.inner(embeddings, labels)


class DistributedLossWrapper(nn.Module):
    """pytorch-metric-learning's wrapper for several ranks around one of its losses."""

    def __init__(self, loss: str = "NTXentLoss", efficient: bool = False) -> None:
        super().__init__()
        from pytorch_metric_learning import losses
        from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

        self.inner = DistributedLossWrapper(getattr(losses, loss)(), efficient=efficient)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.inner(embeddings, labels)


class SIGReg(nn.Module):
    """lightly's SIGReg of both views together."""

    def __init__(self, gather_distributed: bool = False) -> None:
        super().__init__()
        from lightly.loss import SIGReg

        self.inner = SIGReg(gather_distributed=gather_distributed)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.inner(torch.cat([first, second]))


class _OfViews(nn.Module):
    """lightly's losses that take both views by name, as (views, rows, dimensions)."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        super().__init__()
        import lightly.loss

        self.inner = getattr(lightly.loss, name)(**settings)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        views = torch.stack([first, second])
        return self.inner(local_proj=views, global_proj=views)


class LeJEPALoss(_OfViews):
    """lightly's LeJEPALoss, the same two views as local and global ones."""

    def __init__(self, gather_distributed: bool = False) -> None:
        super().__init__("LeJEPALoss", {"gather_distributed": gather_distributed})


class _SentenceLoss(nn.Module):
    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from sentence_transformers.sentence_transformer import losses
        self.inner = getattr(losses, name)(nn.Sequential(nn.Identity()), **settings)


class _ByLabel(_SentenceLoss):
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.inner.compute_loss_from_embeddings([embeddings], labels)


class _ByPair(_SentenceLoss):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.inner.compute_loss_from_embeddings([first, second], torch.zeros(len(first)))


class _ByCachedPair(_SentenceLoss):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.inner.calculate_loss([[first], [second]])


class _ByScoredPair(_SentenceLoss):
    """Each first view with every second one: its own is a positive pair, all others are negative ones."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        n = len(first)
        pairs = [first.repeat_interleave(n, 0), second.repeat(n, 1)]
        return self.inner.compute_loss_from_embeddings(pairs, torch.eye(n).reshape(-1))


def _named(base: type[_SentenceLoss], name: str) -> type[_SentenceLoss]:
    def __init__(self: Any, **settings: Any) -> None:
        base.__init__(self, name, settings)

    return type(name, (base,), {"__init__": __init__, "__module__": __name__})


BatchAllTripletLoss = _named(_ByLabel, "BatchAllTripletLoss")
BatchHardTripletLoss = _named(_ByLabel, "BatchHardTripletLoss")
BatchHardSoftMarginTripletLoss = _named(_ByLabel, "BatchHardSoftMarginTripletLoss")
BatchSemiHardTripletLoss = _named(_ByLabel, "BatchSemiHardTripletLoss")
MultipleNegativesRankingLoss = _named(_ByPair, "MultipleNegativesRankingLoss")
MultipleNegativesSymmetricRankingLoss = _named(_ByPair, "MultipleNegativesSymmetricRankingLoss")
CachedMultipleNegativesRankingLoss = _named(_ByCachedPair, "CachedMultipleNegativesRankingLoss")
CachedMultipleNegativesSymmetricRankingLoss = _named(_ByCachedPair, "CachedMultipleNegativesSymmetricRankingLoss")
ContrastiveLoss = _named(_ByScoredPair, "ContrastiveLoss")
OnlineContrastiveLoss = _named(_ByScoredPair, "OnlineContrastiveLoss")
CosineSimilarityLoss = _named(_ByScoredPair, "CosineSimilarityLoss")
CoSENTLoss = _named(_ByScoredPair, "CoSENTLoss")
AnglELoss = _named(_ByScoredPair, "AnglELoss")
