"""SupCon: each positive against everyone else, the other positives included."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from annotated_types import Gt

from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs
from metriclab.registry import register


def supcon_terms(pairs: Pairs, temperature: float) -> dict[str, Term]:
    """-log e^(s_ap / t) / (sum over all others of e^(s_ao / t)), meant over an anchor's positives."""
    logits = pairs.similarity / temperature
    # Not -inf: a row without any other would have NaNs on the way to its zero gradient.
    lowest = torch.finfo(logits.dtype).min
    others = logits.masked_fill(~(pairs.positive | pairs.negative), lowest).logsumexp(1, keepdim=True)
    cost = torch.where(pairs.positive, others - logits, 0).sum(1)
    positives = pairs.positive.sum(1)
    return {"anchors": Term(cost / positives.clamp(min=1), positives.clamp(max=1))}


@register("loss", "supcon")
def supcon(*, temperature: Annotated[float, Gt(0)] = 0.1) -> PairLoss:
    """Supervised contrastive loss: each positive against everyone else, the anchor's other positives included.

    For an anchor a, the mean over its positives p of -log e^(s_ap / t) / (sum over all others o of e^(s_ao / t)); then
    the mean over anchors, so a row of a rare class weighs as much as one of a frequent class. An anchor without a
    positive is not counted, but is a negative to others; rows of unknown label are neither. With k positives an
    anchor costs log k at least, and a positive nearer to it than the others is held back, which `nt-xent` does not do.
    With one positive an anchor the two are equal.

    Paper: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, equation 2 (L_out), as a mean over anchors.

    Args:
        temperature: t; the paper takes 0.1.
    """
    return PairLoss(partial(supcon_terms, temperature=temperature))
