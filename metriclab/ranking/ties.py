"""Expected values of ranking metrics when ties are broken at random.

Gallery rows of equal similarity form a tie group, whose inner order says nothing about the model: each metric takes
its expectation over all orders of the group. Only groups that hold a match contribute, and any of the positions of a
group holds a match with probability `matches / size`.

Paper: F. McSherry, M. Najork. Computing Information Retrieval Performance Measures Efficiently in the Presence of
Tied Scores. ECIR 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from metriclab.ranking.keys import EXCLUDED


@dataclass(frozen=True, slots=True)
class Tables:
    """Sums up to the length of a ranking: `harmonic[i]` = 1 + 1/2 + ... + 1/i, `log_factorial[i]` = log(i!)."""

    harmonic: Float64[Tensor, "n"]
    log_factorial: Float64[Tensor, "n"]

    @classmethod
    def up_to(cls, length: int, device: torch.device) -> Tables:
        """Tables for rankings of at most `length` rows."""
        numbers = torch.arange(1, length + 1, dtype=torch.float64, device=device)
        zero = numbers.new_zeros(1)
        return cls(torch.cat([zero, (1 / numbers).cumsum(0)]), torch.cat([zero, torch.lgamma(numbers + 1)]))


@dataclass(frozen=True, slots=True)
class Tied:
    """The matches that share their similarity with another gallery row, t of them.

    Attributes:
        match: which of `RankedMatches`, ascending.
        above: gallery rows before the group.
        size: gallery rows in the group, two or more.
        matches: matches in the group.
        matches_above: matches before the group.
    """

    match: Int64[Tensor, "t"]
    above: Int64[Tensor, "t"]
    size: Int64[Tensor, "t"]
    matches: Int64[Tensor, "t"]
    matches_above: Int64[Tensor, "t"]


@dataclass(frozen=True, slots=True)
class RankedMatches:
    """Matches of b queries, query by query, best first: m in all. Those that are of no interest may be missing.

    Attributes:
        relevant: number of matches of each query in the whole gallery.
        count: of those listed here.
        query: of each match, ascending.
        number: matches of its query that stand before it.
        above: gallery rows that are nearer than the match.
        tied: those of the matches that are in a tie group; the others stand alone at their similarity.
        tables: for rankings of this length.
    """

    relevant: Int64[Tensor, "b"]
    count: Int64[Tensor, "b"]
    query: Int64[Tensor, "m"]
    number: Int64[Tensor, "m"]
    above: Int64[Tensor, "m"]
    tied: Tied
    tables: Tables

    @classmethod
    def of(
        cls, keys: Int32[Tensor, "b k"], above: Int64[Tensor, "m"], size: Int64[Tensor, "m"], tables: Tables
    ) -> RankedMatches:
        """From the ascending keys of the matches, `EXCLUDED` behind them, and what shares each one's similarity."""
        real = keys != EXCLUDED
        relevant = real.sum(1)
        query, number = real.nonzero(as_tuple=True)
        match = (size > 1).nonzero().squeeze(1)
        first, matches = runs(query[match], keys[real][match])
        tied = Tied(match, above[match], size[match], matches, number[match][first])
        return cls(relevant, relevant, query, number, above, tied, tables)

    @property
    def length(self) -> int:
        """Rows of the longest ranking."""
        return len(self.tables.harmonic) - 1

    def hits(self, depths: Int64[Tensor, "k b"]) -> Float64[Tensor, "k b"]:
        """Expected number of matches among the best rows, for several depths."""
        tied, span = self.tied, self.length + 1
        queries = torch.arange(len(self.relevant), device=depths.device) * span
        places = self.query * span + self.above
        end = torch.searchsorted(places, queries + depths.clamp(max=span - 1))
        found = (end - self._begin).double()
        query = self.query[tied.match]
        for values, depth in zip(found, depths, strict=True):
            inside = self._reach(depth).double() / tied.size - (tied.above < depth[query]).double()
            values.index_add_(0, query, inside)
        return found

    def summed_precision(self, depth: Int64[Tensor, "b"]) -> Float64[Tensor, "b"]:
        """Expected sum of the precisions at each match among the `depth` best rows.

        Given a match at position above + j, (j - 1)(matches - 1)/(size - 1) of the j - 1 rows before it in the group
        are expected to be matches: its precisions, summed over j, are a multiple of a difference of harmonic numbers.
        """
        values = self.number.double().add_(1).div_(self.above.double().add_(1))
        values.masked_fill_(self.above >= torch.repeat_interleave(depth, self.count, output_size=len(values)), 0.0)
        tied, reach, harmonic = self.tied, self._reach(depth), self.tables.harmonic
        share = (tied.matches - 1).double() / (tied.size - 1)
        harmonics = harmonic[tied.above + reach] - harmonic[tied.above]
        precisions = (tied.matches_above + 1 - share * (tied.above + 1)) * harmonics + share * reach
        values[tied.match] = precisions / tied.size
        return self._sum(values)

    def any_hit(self, depths: Sequence[int]) -> list[Float64[Tensor, "b"]]:
        """Probability of a match among the best rows: one minus the hypergeometric chance of none."""
        above, size, matches = self._best()
        others, log_factorial = (size - matches).clamp(min=0), self.tables.log_factorial
        chances = []
        for depth in depths:
            drawn = (depth - above).clamp(min=0).minimum(size)
            log_none = log_factorial[others] - log_factorial[(others - drawn).clamp(min=0)]
            log_all = log_factorial[size] - log_factorial[size - drawn]
            chances.append(torch.where(drawn > others, 1.0, -torch.expm1(log_none - log_all)))
        return chances

    def reciprocal_rank(self, depth: int | None = None) -> Float64[Tensor, "b"]:
        """Expected reciprocal of the position of the best match, 0 where that is beyond `depth`."""
        depth = self.length if depth is None else depth
        above, size, matches = self._best()
        result = torch.where(above < depth, 1 / (above + 1).double(), 0.0)
        tied = (size > matches).nonzero().squeeze(1)
        shapes = torch.stack([above[tied], size[tied], matches[tied]], dim=1)
        different, which = torch.unique(shapes, dim=0, return_inverse=True)
        expected = [self._reciprocal_in_tie(*shape, depth=depth) for shape in different.tolist()]
        if expected:
            result[tied] = torch.stack(expected)[which]
        return result

    def _reciprocal_in_tie(self, above: int, size: int, matches: int, *, depth: int) -> Float64[Tensor, ""]:
        # The best match is the jth of the group with probability C(size - j, matches - 1) / C(size, matches).
        log_factorial, most = self.tables.log_factorial, size - matches + 1
        behind = log_factorial[matches - 1 : size] - log_factorial[:most] - log_factorial[matches - 1]
        log_all = log_factorial[size] - log_factorial[size - matches] - log_factorial[matches]
        j = torch.arange(most, 0, -1, device=behind.device)
        return ((behind - log_all).exp() / (above + j)).where(above + j <= depth, 0.0).sum()

    @property
    def _begin(self) -> Int64[Tensor, "b"]:
        """Where the matches of each query begin."""
        return self.count.cumsum(0) - self.count

    def _best(self) -> tuple[Int64[Tensor, "b"], Int64[Tensor, "b"], Int64[Tensor, "b"]]:
        """`above`, `size` and `matches` of the group of each query's best match; behind all rows where it has none."""
        above = torch.full_like(self.relevant, self.length)
        size, matches = torch.ones_like(above), torch.ones_like(above)
        some, tied = self.count > 0, self.tied
        above[some] = self.above[self._begin[some]]
        among = self.number[tied.match] == 0
        query = self.query[tied.match[among]]
        size[query], matches[query] = tied.size[among], tied.matches[among]
        return above, size, matches

    def _reach(self, depth: Int64[Tensor, "b"]) -> Int64[Tensor, "t"]:
        """How many positions of each tied match's group are among the `depth` best rows."""
        return (depth[self.query[self.tied.match]] - self.tied.above).clamp(min=0).minimum(self.tied.size)

    def _sum(self, values: Float64[Tensor, "m"]) -> Float64[Tensor, "b"]:
        return values.new_zeros(len(self.relevant)).index_add_(0, self.query, values)


def runs(query: Int64[Tensor, "t"], keys: Int32[Tensor, "t"]) -> tuple[Int64[Tensor, "t"], Int64[Tensor, "t"]]:
    """For each place in a list, where the run of its query and key begins, and how long it is."""
    new = torch.ones_like(query, dtype=torch.bool)
    new[1:] = (query[1:] != query[:-1]) | (keys[1:] != keys[:-1])
    begin = new.nonzero().squeeze(1)
    which = new.cumsum(0) - 1
    length = torch.diff(begin, append=begin.new_tensor([len(query)]))
    return begin[which], length[which]
