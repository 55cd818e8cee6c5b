"""Average precision that can be differentiated: Smooth-AP, and SupAP, which is never above the true one."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.api import Pairs, Term, call_pair_loss, register, show_settings, stream_terms
from metriclab_ranking.soft_ranks import Step, soft_ranks, sum_by_anchor


@register("loss", "smooth-ap")
class SmoothAP(nn.Module):
    """One minus a smooth average precision of each anchor's ranking, the mean over anchors with a positive.

    The precision at a positive i is (1 + the other positives before it) / (1 + all references before it), where a
    reference j counts by the sigmoid of (s_j - s_i) / t instead of as 0 or 1; averaged over the anchor's positives. An
    anchor is no reference of its own (in the authors' code it is, its own first positive, and its average precision
    is higher for that), and classes may be of any sizes.

    Two references at one cosine count half before each other, and are parted with the largest gradient, 1 / (4 t). A
    single positive has the precision 1 / (1 + negatives before it). Differences of cosines of many t have next to no
    gradient: that is the point of `sup-ap`. An anchor without a positive is not counted, one without a negative has a
    loss of 0.

    Memory is that of a few tiles of anchors against references; time is P times that of a loss of pairs, for P
    positives an anchor: O(N^2 P).

    Paper: Brown et al., Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval, ECCV 2020, equations 7
    to 9.

    Args:
        temperature: t, of the sigmoid; the paper takes 0.01.

    Example:
        >>> criterion = SmoothAP()
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(self, *, temperature: Annotated[float, Gt(0)] = 0.01) -> None:
        super().__init__()
        self.temperature = temperature

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """One minus the average precision, with sigmoids for steps."""
        step = partial(sigmoid_step, temperature=self.temperature)
        return average_precision_terms(pairs, step, step)


@register("loss", "sup-ap")
class SupAP(nn.Module):
    """One minus an average precision that is too low rather than too high; the mean over anchors with a positive.

    As `smooth-ap`, with other steps. Positives count as they are: 1 where nearer to the anchor than positive i or as
    near, 0 elsewhere, without a gradient. A negative counts, by d = s_j - s_i, the sigmoid of d / t where d <= 0, and
    1/2 more where d > 0; beyond `linear_from` it goes on as a straight line, of derivative `rho`. So a negative before
    a positive counts as one or more, and its gradient does not fade however far before it is.

    References at one cosine: positives count 1 before each other, a negative 1/2. All of the gradient is of negatives
    against a positive; the order among positives has none, so a single positive has what each of several has. An
    anchor without a positive is not counted, one without a negative has a loss of 0. Memory and time are those of
    `smooth-ap`.

    Paper: Ramzi et al., Robust and Decomposable Average Precision for Image Retrieval, NeurIPS 2021, section 3.1.

    Args:
        temperature: t, of the sigmoid; the paper takes 0.01.
        rho: derivative of the line; the paper takes 100.
        linear_from: delta, the difference of cosines where the line begins; the paper takes 0.05.

    Example:
        >>> criterion = SupAP()
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(
        self,
        *,
        temperature: Annotated[float, Gt(0)] = 0.01,
        rho: Annotated[float, Gt(0)] = 100.0,
        linear_from: Annotated[float, Ge(0), Le(2)] = 0.05,
    ) -> None:
        super().__init__()
        self.temperature, self.rho, self.linear_from = temperature, rho, linear_from

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """One minus the average precision, with steps for positives that have no gradient."""
        above = partial(_above, temperature=self.temperature, rho=self.rho, linear_from=self.linear_from)
        return average_precision_terms(pairs, _at_least, above)


def average_precision_terms(pairs: Pairs, of_positives: Step, of_negatives: Step) -> dict[str, Term]:
    """One minus the mean over an anchor's positives of the precision at each, averaged over anchors with a positive."""
    anchors, among_positives, among_negatives = soft_ranks(pairs, of_positives, of_negatives)
    wrong = among_negatives / (1 + among_positives + among_negatives)  # one minus the precision, exact near 0
    positives = pairs.positive.sum(1)
    loss = sum_by_anchor(wrong, anchors, pairs) / positives.clamp(min=1)
    return {"anchors": Term(loss, (positives > 0).long())}


def sigmoid_step(nearer: Float[Tensor, "*cells"], temperature: float) -> Float[Tensor, "*cells"]:
    return (nearer / temperature).sigmoid()


def _at_least(nearer: Float[Tensor, "*cells"]) -> Float[Tensor, "*cells"]:
    return torch.where(nearer.isnan(), nearer, (nearer >= 0).to(nearer.dtype))  # a row that is not a number must show


def _above(
    nearer: Float[Tensor, "*cells"], temperature: float, rho: float, linear_from: float
) -> Float[Tensor, "*cells"]:
    curve = (nearer / temperature).sigmoid()
    line = rho * (nearer - linear_from) + 1 / (1 + math.exp(-linear_from / temperature))
    return torch.where(nearer > linear_from, line, curve) + 0.5 * (nearer > 0)
