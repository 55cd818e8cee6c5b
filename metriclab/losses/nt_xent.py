"""NT-Xent: the loss of SimCLR, and InfoNCE wherever the references come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs
from metriclab.core.rows import Rows
from metriclab.losses.nt_xent_closed import closed_form
from metriclab.registry import register


def nt_xent_terms(pairs: Pairs, temperature: float) -> dict[str, Term]:
    """-log e^(s_ap / t) / (e^(s_ap / t) + sum over negatives n of e^(s_an / t)), averaged over positive pairs."""
    logits = pairs.similarity / temperature
    lowest = torch.finfo(logits.dtype).min  # not -inf: a row without negatives would have a NaN gradient
    negatives = logits.masked_fill(~pairs.negative, lowest).logsumexp(1, keepdim=True)
    cost = torch.logaddexp(negatives - logits, torch.zeros_like(logits))
    return {"pairs": Term(torch.where(pairs.positive, cost, 0).sum(1), pairs.positive.sum(1))}


@register("loss", "nt-xent")
class NTXent(nn.Module):
    """Normalised temperature-scaled cross entropy, also known as InfoNCE: each positive against all negatives.

    The mean over positive pairs (a, p) of -log e^(s_ap / t) / (e^(s_ap / t) + sum over negatives n of e^(s_an / t)).
    An anchor's other positives are in no denominator, so any number of views and repeated items are handled. Exact
    down to t = 2e-4 in float32. At t = 1 it is the N-pair loss (Sohn 2016) on unit rows.

    Memory is O(N D): batches of 65,536 rows fit a laptop. Up to 64 rows a label take a closed form; more, or a miner,
    take the generic streamed path, with the same result.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, equation 1;
    van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018.

    Args:
        temperature: t; the paper takes 0.1 on ImageNet and 0.5 on CIFAR-10.
    """

    pairwise = True

    def __init__(self, *, temperature: Annotated[float, Gt(0)] = 0.1) -> None:
        super().__init__()
        self.temperature = temperature
        self.streamed = PairLoss(partial(nt_xent_terms, temperature=temperature))

    def forward(
        self, anchors: Rows, references: Rows, *, miner: Callable[[Pairs], Pairs] | None = None
    ) -> Float[Tensor, ""]:
        loss = closed_form(anchors, references, self.temperature) if miner is None else None
        return self.streamed(anchors, references, miner=miner) if loss is None else loss
