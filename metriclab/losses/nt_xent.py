"""NT-Xent: the loss of SimCLR, and InfoNCE wherever the references come from elsewhere."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.protocols import Miner
from metriclab.core.rows import Rows
from metriclab.core.settings import show_settings
from metriclab.losses.nt_xent_closed import closed_form
from metriclab.losses.temperature import learned_scale, logged_temperature, scaled
from metriclab.registry import register


@register("loss", "nt-xent")
class NTXent(nn.Module):
    """Normalised temperature-scaled cross entropy, also known as InfoNCE: each positive against all negatives.

    The mean over positive pairs (a, p) of -log e^(s_ap / t) / (e^(s_ap / t) + sum over negatives n of e^(s_an / t)).
    An anchor's other positives are in no denominator, so any number of views and repeated items are handled. Exact
    down to t = 2e-4 in float32. At t = 1 it is the N-pair loss (Sohn 2016) on unit rows.

    Memory is O(N D): 65,536 rows fit a laptop. Up to 64 rows a label take a closed form; more, or a miner, tiles.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, equation 1;
    van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018.

    Args:
        temperature: t; the paper takes 0.1 on ImageNet and 0.5 on CIFAR-10.
        learnable_temperature: learns t, beginning at `temperature`, as CLIP does (Radford et al., ICML 2021): log 1 / t
            is a parameter in the optimizer's group `loss`, and t stays between 0.01 and 1. By the streamed path.

    Raises:
        RecipeError: for a learned temperature that begins out of bounds.

    Example:
        >>> criterion = NTXent(temperature=0.1)
        >>> views = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
        >>> criterion(torch.cat(views), [0, 1, 2, 3, 0, 1, 2, 3]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss
    extra_repr = show_settings
    logged_values = logged_temperature

    def __init__(self, *, temperature: Annotated[float, Gt(0)] = 0.1, learnable_temperature: bool = False) -> None:
        super().__init__()
        self.temperature, self.learnable_temperature = temperature, learnable_temperature
        self.log_scale = learned_scale(temperature) if learnable_temperature else None

    def forward(self, anchors: Rows, references: Rows, *, miner: Miner | None = None) -> Float[Tensor, ""]:
        closed = miner is None and self.log_scale is None
        loss = closed_form(anchors, references, self.temperature) if closed else None
        return stream_terms(self, anchors, references, miner=miner) if loss is None else loss

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """-log e^(s_ap / t) / (e^(s_ap / t) + sum over negatives n of e^(s_an / t)), averaged over positive pairs."""
        logits = scaled(pairs.similarity, self.temperature, self.log_scale)
        lowest = torch.finfo(logits.dtype).min  # not -inf: a row without negatives would have a NaN gradient
        negatives = logits.masked_fill(~pairs.negative, lowest).logsumexp(1, keepdim=True)
        loss = torch.logaddexp(negatives - logits, torch.zeros_like(logits))
        return {"pairs": Term(torch.where(pairs.positive, loss, 0).sum(1), pairs.positive.sum(1))}
