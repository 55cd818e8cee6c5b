"""Pairs: every anchor against every reference, with who is alike and who is not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metriclab.core.rows import Keys, Rows


@dataclass(frozen=True, slots=True)
class Pairs:
    """B anchors against M references.

    Attributes:
        similarity: cosine; the squared Euclidean distance of unit rows is 2 - 2 similarity.
        positive: cells of equal labels, never a row and itself, nor of one group where both sides have groups.
        negative: cells of different labels; disjoint from `positive`. An unknown label is in neither.
        anchors, references: the keys of both sides.
        embedding_dim: dimensions of the embeddings the similarities come from.
    """

    similarity: Float[Tensor, "b m"]
    positive: Bool[Tensor, "b m"]
    negative: Bool[Tensor, "b m"]
    anchors: Keys
    references: Keys
    embedding_dim: int


def all_pairs(anchors: Rows, references: Rows) -> Pairs:
    """All pairs of anchors and references at once. For losses prefer `PairLoss`, which never holds B x M."""
    with torch.autocast(anchors.z.device.type, enabled=False):
        similarity = anchors.z @ references.z.T
    return pairs_of(similarity, anchors.keys, references.keys, anchors.embedding_dim)


def pairs_of(similarity: Float[Tensor, "b m"], anchors: Keys, references: Keys, embedding_dim: int) -> Pairs:
    """Pairs from similarities already at hand. Identity decides, not position: equal ids are one row."""
    known = references.labels >= 0
    # Rows copied whole: spreading a column over booleans cell by cell takes as long as all the rest.
    rows_known = torch.stack([torch.zeros_like(known), known]).index_select(0, (anchors.labels >= 0).long())
    usable = rows_known & (anchors.ids[:, None] != references.ids[None, :])
    alike = anchors.labels[:, None] == references.labels[None, :]
    if anchors.groups is not None and references.groups is not None:
        usable &= ~alike | (anchors.groups[:, None] != references.groups) | (references.groups < 0)
    return Pairs(similarity, usable & alike, usable & ~alike, anchors, references, embedding_dim)
