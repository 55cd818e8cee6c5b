"""Whether a loss over the pairs that a miner chooses knows of tiles or ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs
from metriclab.core.protocols import Miner
from metriclab.core.rows import Rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.testing.cases import Case, evaluate, oblong, square
from metriclab.testing.loss_on_ranks import all_values_and_gradients
from metriclab.testing.ranks import agree_on_ranks

RULE = "a row of the masks may depend on that row of the pairs, and on labels, items, ids and views, alone"


class Mined(nn.Module):
    """A simple loss over the pairs that a miner chooses."""

    pairwise = True

    def __init__(self, miner: Miner) -> None:
        super().__init__()
        self.inner, self.miner = PairLoss(_costs), miner

    def forward(self, anchors: Rows, references: Rows) -> Float[Tensor, ""]:
        return self.inner(anchors, references, miner=self.miner)


def _costs(pairs: Pairs) -> dict[str, Term]:
    pull, push = (1 - pairs.similarity).square(), (1 + pairs.similarity).square()
    return {
        "pull": Term(torch.where(pairs.positive, pull, 0).sum(1), pairs.positive.sum(1)),
        "push": Term(torch.where(pairs.negative, push, 0).sum(1), pairs.negative.sum(1)),
    }


def check_tiles(name: str, miner: Miner, given: Sequence[Case]) -> None:
    """Asserts equal values and gradients whatever the tiles."""
    for one in given:
        for call in (square, oblong):
            whole = evaluate(Mined(miner), one, call)
            for cells in (80, 200):
                with forced_tile_cells(cells):
                    tiled = evaluate(Mined(miner), one, call)
                close = all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(whole, tiled, strict=True))
                assert close, f"{name} depends on how rows are cut into tiles, on {one.name}: {RULE}"


def check_ranks(name: str, miner: Miner, given: Sequence[Case]) -> None:
    """Asserts equal values and gradients on 1, 2 and 3 ranks."""
    loss = Mined(miner)
    agree_on_ranks(
        name, "chooses otherwise on several ranks", RULE, all_values_and_gradients, loss, list(given), tolerance=1e-12
    )
