"""Hard, semi-hard and easy pairs: a pair is as hard as the hardest triplet it is part of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor

from metriclab.core.pairs import Pairs
from metriclab.miners.choice import choose, farthest_similarity, nearest_similarity, noise
from metriclab.registry import register

PairSides = Literal["both", "positives", "negatives"]


def between(pairs: Pairs, above: float, upto: float, sides: PairSides) -> Pairs:
    """The pairs whose hardness is in (above, upto], on the sides that are chosen from."""
    as_positive, as_negative = hardness(pairs)
    return choose(
        pairs,
        positive=None if sides == "negatives" else (as_positive > above) & (as_positive <= upto),
        negative=None if sides == "positives" else (as_negative > above) & (as_negative <= upto),
    )


def hardness(pairs: Pairs) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m"]]:
    """The largest d_ap^2 - d_an^2 of each cell's triplets, as a positive and as a negative; -inf in none."""
    similarity, tie = pairs.similarity.detach(), noise(pairs)  # a tie, whatever rounding makes of it, is above 0
    as_positive = 2 * (nearest_similarity(pairs, pairs.negative) - similarity + tie)
    as_negative = 2 * (similarity - farthest_similarity(pairs, pairs.positive) + tie)
    return as_positive, as_negative


@register("miner", "hard-pairs")
@dataclass(frozen=True, kw_only=True)
class HardPairs:
    """Positives no nearer than the anchor's nearest negative, and negatives no farther than its farthest positive.

    A triplet of an anchor, a positive and a negative is hard where the negative is no farther than the positive, ties
    included; semi-hard where it is farther by less than a margin; else easy. A pair is as hard as the hardest triplet
    it is part of, so that every pair in a triplet is chosen by exactly one of `hard-pairs`, `semihard-pairs` and
    `easy-pairs`, given one margin. A pair in no triplet, as its anchor has no positives or no negatives, is chosen by
    none of them. To choose each triplet by itself, see the loss `triplet`.

    Paper: Schroff et al., FaceNet, CVPR 2015, section 3.2; Hermans et al., In Defense of the Triplet Loss for Person
    Re-Identification, 2017.

    Args:
        sides: what is chosen from, both, positives or negatives; the other side stays whole.
    """

    sides: PairSides = "both"

    def __call__(self, pairs: Pairs, /) -> Pairs:
        return between(pairs, above=0.0, upto=math.inf, sides=self.sides)


@register("miner", "semihard-pairs")
@dataclass(frozen=True, kw_only=True)
class SemihardPairs:
    """Negatives that are farther than all of the anchor's positives, and than its farthest by less than a margin.

    And, where they are chosen from, positives that are nearer than all negatives, and than the nearest by less than
    the margin. These are in a semi-hard triplet and in no hard one (see `hard-pairs`); a pair in no triplet is not
    chosen.

    Paper: Schroff et al., FaceNet, CVPR 2015, section 3.2, which keeps all positives.

    Args:
        margin: in squared distance of unit rows, which is at most 4; as that of the triplet loss.
        sides: what is chosen from, both, positives or negatives; the other side stays whole.
    """

    margin: Annotated[float, Gt(0), Le(4)] = 0.2
    sides: PairSides = "negatives"

    def __call__(self, pairs: Pairs, /) -> Pairs:
        return between(pairs, above=-self.margin, upto=0.0, sides=self.sides)


@register("miner", "easy-pairs")
@dataclass(frozen=True, kw_only=True)
class EasyPairs:
    """Positives that are nearer than all of the anchor's negatives, by a margin at least.

    And, where they are chosen from, negatives that are farther than all positives, by the margin at least. All their
    triplets are easy (see `hard-pairs`); a pair in no triplet is not chosen. Classes then need not shrink to a point,
    as far positives are let alone. Early in training few pairs or none may be easy: `batch-hard` with the nearest
    positive always has one.

    Paper: Xuan et al., Improved Embeddings with Easy Positive Triplet Mining, WACV 2020, for easy positives.

    Args:
        margin: in squared distance of unit rows, which is at most 4.
        sides: what is chosen from, both, positives or negatives; the other side stays whole.
    """

    margin: Annotated[float, Ge(0), Le(4)] = 0.0
    sides: PairSides = "positives"

    def __call__(self, pairs: Pairs, /) -> Pairs:
        return between(pairs, above=-math.inf, upto=-self.margin, sides=self.sides)
