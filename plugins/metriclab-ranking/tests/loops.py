"""What the tests share: an anchor's pairs taken one by one, and losses compared with loops over them in float64."""

from __future__ import annotations

import pytest
import torch

from metriclab.api import rows

LABELS = [
    [0, 1, 0, 2, 1, -1, 0, -1, 3, 0],  # classes of 4, 2, 1 and 1 rows, and unknown ones
    [0, 1, 2, 0, 1, 2],
    [0, 0, 1],
    [0, 1, 2],  # no positives
    [5, 5, 5],  # no negatives
    [-1, -2, -1],
    [4],
]


def partners(anchors, references):
    """For each anchor of known label, its cosines with its positives and, by label, with its negatives."""
    for anchor in range(len(anchors)):
        alike, apart = [], {}
        for reference in range(len(references)):
            label, other = int(anchors.labels[anchor]), int(references.labels[reference])
            if other < 0 or anchors.ids[anchor] == references.ids[reference]:
                continue
            cosine = (anchors.z[anchor] * references.z[reference]).sum()
            (alike if other == label else apart.setdefault(other, [])).append(cosine)
        if anchors.labels[anchor] >= 0:
            yield alike, apart


def mean(values):
    return sum(values) / len(values) if values else 0.0


def agree(loss, by_loops, labels, references=None, tolerance=1e-9):
    """Equal value and gradients of the raw embeddings; beside the batch itself, `references` gives what it is held
    against, and the leaf of those."""
    z = torch.randn(len(labels), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7)).requires_grad_()
    batch = rows(z, torch.tensor(labels))
    others, leaf = (batch, z) if references is None else references
    found, expected = loss(batch, others), by_loops(batch, others) + 0 * (z.sum() + leaf.sum())
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-10)
    for one in {id(leaf): leaf, id(z): z}.values():
        (ours,) = torch.autograd.grad(found, one, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected, one, retain_graph=True)
        torch.testing.assert_close(ours, theirs, atol=tolerance * max(1.0, float(theirs.abs().max())), rtol=0)
