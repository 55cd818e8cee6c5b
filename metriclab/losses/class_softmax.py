"""What losses over classes share: an anchor's references taken together, those of its own class and the others."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from metriclab.core.pair_loss import Term
from metriclab.core.pairs import Pairs


def log_sums(pairs: Pairs, logits: Float[Tensor, "b m"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The logarithm of the sum of e^logit over an anchor's positives, and that over its negatives.

    A sum over none is 0; its logarithm comes as the lowest finite number, about, with zero gradient.
    """
    # Not -inf: a row where none is chosen would have NaNs on the way to its zero gradient.
    lowest = torch.finfo(logits.dtype).min
    own = logits.masked_fill(~pairs.positive, lowest).logsumexp(1)
    others = logits.masked_fill(~pairs.negative, lowest).logsumexp(1)
    return own, others


def softmax_terms(pairs: Pairs, logits: Float[Tensor, "b m"]) -> dict[str, Term]:
    """-log (sum over positives of e^logit / sum over positives and negatives), averaged over anchors with a positive.

    With one reference a class this is the cross entropy of the classes. With several, the probability of a class is
    the sum of those of its references: an anchor need be near to one of them only.
    """
    own, others = log_sums(pairs, logits)
    behind = others - own
    loss = torch.logaddexp(behind, torch.zeros_like(behind))
    counted = pairs.positive.any(1)
    return {"anchors": Term(torch.where(counted, loss, 0), counted.long())}
