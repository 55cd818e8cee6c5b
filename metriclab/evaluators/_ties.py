"""Expected values of ranking metrics when ties are broken at random.

Gallery rows of equal similarity form a tie group, whose inner order says nothing about the model: each metric takes
its expectation over all orders of the group. Only groups that hold a match contribute, and any of the positions of a
group holds a match with probability `matches / size`.

Paper: F. McSherry, M. Najork. Computing Information Retrieval Performance Measures Efficiently in the Presence of
Tied Scores. ECIR 2008.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int32, Int64
from torch import Tensor

from metriclab.evaluators._ranking import EXCLUDED


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
class RankedMatches:
    """The matches of b queries, best first, each with the tie group it is in; padded to m on the right.

    Attributes:
        real: false for the padding.
        relevant: number of matches of each query in the whole gallery.
        above: gallery rows before the group.
        size: gallery rows in the group.
        matches: matches in the group.
        matches_above: matches before the group.
        tables: for rankings of this length.
    """

    real: Bool[Tensor, "b m"]
    relevant: Int64[Tensor, "b"]
    above: Int64[Tensor, "b m"]
    size: Int64[Tensor, "b m"]
    matches: Int64[Tensor, "b m"]
    matches_above: Int64[Tensor, "b m"]
    tables: Tables

    @classmethod
    def find(cls, ranked: Int32[Tensor, "b n"], keys: Int32[Tensor, "b m"], tables: Tables) -> RankedMatches:
        """From the sorted keys of the whole gallery and those of the matches; `EXCLUDED` among the latter is none."""
        real = keys != EXCLUDED
        above, end = (torch.searchsorted(ranked, keys, right=right) for right in (False, True))
        matches_above, matches_end = _runs(keys)
        return cls(real, real.sum(1), above, end - above, matches_end - matches_above, matches_above, tables)

    @property
    def length(self) -> int:
        """Rows of the longest ranking."""
        return len(self.tables.harmonic) - 1

    def hits(self, depth: Int64[Tensor, "b"]) -> Float64[Tensor, "b"]:
        """Expected number of matches among the `depth` best rows."""
        return self._sum(self._reach(depth).double() / self.size)

    def summed_precision(self, depth: Int64[Tensor, "b"]) -> Float64[Tensor, "b"]:
        """Expected sum of the precisions at each match among the `depth` best rows.

        Given a match at position above + j, (j - 1)(matches - 1)/(size - 1) of the j - 1 rows before it in the group
        are expected to be matches: its precisions, summed over j, are a multiple of a difference of harmonic numbers.
        """
        reach, harmonic = self._reach(depth), self.tables.harmonic
        slope = (self.matches - 1).double() / (self.size - 1).clamp(min=1)
        harmonics = harmonic[self.above + reach] - harmonic[self.above]
        precisions = (self.matches_above + 1 - slope * (self.above + 1)) * harmonics + slope * reach
        return self._sum(precisions / self.size)

    def any_hit(self, depth: int) -> Float64[Tensor, "b"]:
        """Probability of a match among the `depth` best rows: one minus the hypergeometric chance of none."""
        above, size, matches = self.above[:, 0], self.size[:, 0], self.matches[:, 0]
        drawn = (depth - above).clamp(min=0).minimum(size)
        others, log_factorial = (size - matches).clamp(min=0), self.tables.log_factorial
        log_none = log_factorial[others] - log_factorial[(others - drawn).clamp(min=0)]
        log_all = log_factorial[size] - log_factorial[size - drawn]
        return torch.where(drawn > others, 1.0, -torch.expm1(log_none - log_all))

    def reciprocal_rank(self) -> Float64[Tensor, "b"]:
        """Expected reciprocal of the position of the best match."""
        above, size, matches = self.above[:, 0], self.size[:, 0], self.matches[:, 0]
        result = 1 / (above + 1).double()
        tied = (size > matches).logical_and(self.real[:, 0]).nonzero().squeeze(1)
        shapes = torch.stack([above[tied], size[tied], matches[tied]], dim=1)
        different, which = torch.unique(shapes, dim=0, return_inverse=True)
        expected = [self._reciprocal_in_tie(*shape) for shape in different.tolist()]
        if expected:
            result[tied] = torch.stack(expected)[which]
        return result

    def _reciprocal_in_tie(self, above: int, size: int, matches: int) -> Float64[Tensor, ""]:
        # The best match is the jth of the group with probability C(size - j, matches - 1) / C(size, matches).
        log_factorial, most = self.tables.log_factorial, size - matches + 1
        behind = log_factorial[matches - 1 : size] - log_factorial[:most] - log_factorial[matches - 1]
        log_all = log_factorial[size] - log_factorial[size - matches] - log_factorial[matches]
        j = torch.arange(most, 0, -1, device=behind.device)
        return ((behind - log_all).exp() / (above + j)).sum()

    def _reach(self, depth: Int64[Tensor, "b"]) -> Int64[Tensor, "b m"]:
        """How many positions of the group are among the `depth` best rows."""
        return (depth[:, None] - self.above).clamp(min=0).minimum(self.size)

    def _sum(self, values: Float64[Tensor, "b m"]) -> Float64[Tensor, "b"]:
        return values.where(self.real, 0.0).sum(1)


def _runs(ordered: Int32[Tensor, "b m"]) -> tuple[Int64[Tensor, "b m"], Int64[Tensor, "b m"]]:
    """Where the run of equal values around each place begins, and where it ends (exclusive)."""
    m = ordered.shape[1]
    place = torch.arange(m, device=ordered.device)
    change = ordered[:, 1:] != ordered[:, :-1]
    opens, closes = (torch.nn.functional.pad(change, side, value=True) for side in ((1, 0), (0, 1)))
    begin = place.where(opens, 0).cummax(1).values
    end = (place + 1).where(closes, m).flip(1).cummin(1).values.flip(1)
    return begin, end
