"""SupCon: each positive against everyone else, the other positives included."""

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
from metriclab.losses.supcon_closed import closed_form
from metriclab.losses.temperature import learned_scale, logged_temperature, scaled
from metriclab.registry import register


@register("loss", "supcon")
class SupCon(nn.Module):
    """Supervised contrastive loss: each positive against everyone else, the anchor's other positives included.

    For an anchor a, the mean over its positives p of -log e^(s_ap / t) / (sum over all others o of e^(s_ao / t)); then
    the mean over anchors, so a row of a rare class weighs as much as one of a frequent class. An anchor without a
    positive is not counted, but is a negative to others; rows of unknown label are neither. With k positives an
    anchor's loss is log k at least, and a positive nearer to it than the others is held back, which `nt-xent` does not
    do. With one positive an anchor the two are equal.

    Value and gradient are taken in closed form, in O(N D) memory; with a miner by the generic streamed path, with the
    same result.

    Paper: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, equation 2 (L_out), as a mean over anchors.

    Args:
        temperature: t; the paper takes 0.1.
        learnable_temperature: learns t, beginning at `temperature`, as CLIP does (Radford et al., ICML 2021): log 1 / t
            is a parameter in the optimizer's group `loss`, and t stays between 0.01 and 1. By the streamed path.

    Raises:
        RecipeError: for a learned temperature that begins out of bounds.

    Example:
        >>> criterion = SupCon(temperature=0.1)
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 0, 1, 1, 1]).backward()
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
        """-log e^(s_ap / t) / (sum over all others of e^(s_ao / t)), averaged over an anchor's positives."""
        logits = scaled(pairs.similarity, self.temperature, self.log_scale)
        # Not -inf: a row without any other would have NaNs on the way to its zero gradient.
        lowest = torch.finfo(logits.dtype).min
        others = logits.masked_fill(~(pairs.positive | pairs.negative), lowest).logsumexp(1, keepdim=True)
        loss = torch.where(pairs.positive, others - logits, 0).sum(1)
        positives = pairs.positive.sum(1)
        return {"anchors": Term(loss / positives.clamp(min=1), positives.clamp(max=1))}
