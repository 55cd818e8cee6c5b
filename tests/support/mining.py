"""What tests of miners share: pairs to choose from, and an anchor's choice written as loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metriclab.core.pairs import Pairs, all_pairs
from metriclab.core.protocols import Miner
from metriclab.core.rows import Rows, concatenate, rows
from metriclab.registry import build

LABELS = [
    [0, 1, 0, 2, 1, -1, 0, -1, 3, 0, 1, 2],
    [0, 0, 1],
    [0, 1, 2],  # no positives
    [5, 5, 5],  # no negatives
    [2**62, 2**62, 3],
    [-1, -2, -1],
    [4],
]


@dataclass(frozen=True)
class Partner:
    """A reference as its anchor sees it."""

    place: int
    similarity: float
    identity: int


Choice = Callable[[list[Partner], list[Partner]], tuple[list[Partner], list[Partner]]]
"""(positives, negatives) of an anchor -> those that are chosen."""


def partners(pairs: Pairs, anchor: int) -> tuple[list[Partner], list[Partner]]:
    """An anchor's positives and negatives."""
    sides = []
    for mask in (pairs.positive, pairs.negative):
        places = [place for place, here in enumerate(mask[anchor].tolist()) if here]
        row, ids = pairs.similarity[anchor].tolist(), pairs.references.ids.tolist()
        sides.append([Partner(place, row[place], ids[place]) for place in places])
    return sides[0], sides[1]


def chosen(pairs: Pairs) -> list[tuple[set[int], set[int]]]:
    """For each anchor, the places of its positives and of its negatives."""
    both = zip(pairs.positive.tolist(), pairs.negative.tolist(), strict=True)
    return [tuple({place for place, here in enumerate(row) if here} for row in sides) for sides in both]


def several(labels: Sequence[int], width: int = 3) -> list[Pairs]:
    """A batch against itself, against a memory that holds half of it, and of coinciding rows."""
    batch = rows(torch.randn(len(labels), width, dtype=torch.float64), torch.tensor(labels))
    others = rows(torch.randn(9, width, dtype=torch.float64), torch.tensor([1, 0, -1, 9, 0, 1, 2, 2, 0]))
    memory = concatenate([others[:4], batch[len(labels) // 2 :], others[4:]])
    twins = replace(batch, z=batch.z[:2].repeat(len(labels), 1)[: len(labels)])
    return [all_pairs(batch, batch), all_pairs(batch, memory), all_pairs(twins, twins)]


def agree(name: str, choice: Choice, **parameters: object) -> None:
    """The miner chooses what the loops choose, whatever the labels."""
    miner = build("miner", name, **parameters)
    for labels in LABELS:
        for pairs in several(labels):
            mined = chosen(miner(pairs))
            for anchor, found in enumerate(mined):
                positives, negatives = choice(*partners(pairs, anchor))
                assert found == ({p.place for p in positives}, {n.place for n in negatives})


def on_circle(*degrees: float, labels: Sequence[int]) -> Rows:
    """Rows at these angles, in float64."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return rows(torch.stack([angles.cos(), angles.sin()], 1), torch.tensor(labels))


def first_anchor(miner: Miner, given: Rows) -> tuple[set[int], set[int]]:
    """What is chosen for the first row against all."""
    return chosen(miner(all_pairs(given[:1], given)))[0]


def broken(labels: Sequence[int], row: int, dtype: torch.dtype = torch.float32) -> Pairs:
    """Pairs of which one row is NaN."""
    z = torch.randn(len(labels), 4, dtype=dtype)
    z[row] = torch.nan
    batch = rows(z, torch.tensor(labels))
    return all_pairs(batch, batch)


def lost(before: Pairs, after: Pairs) -> Tensor:
    """Broken pairs that are no longer chosen."""
    return before.similarity.isnan() & ((before.positive & ~after.positive) | (before.negative & ~after.negative))
