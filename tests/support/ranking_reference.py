"""Metrics from their definitions: every order of every tie is written out, and the metric is averaged over them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from metriclab.core.rows import Rows

STEP = 2.0**-20


def candidates(queries: Rows, gallery: Rows, query: int) -> list[tuple[float, int, int]]:
    """(rounded similarity, label, gallery row) of the rows that one query is ranked against."""
    found = []
    for row in range(len(gallery)):
        if gallery.items[row] == queries.items[query]:
            continue
        products = zip(queries.z[query].tolist(), gallery.z[row].tolist(), strict=True)
        similarity = math.fsum(a * b for a, b in products)
        found.append((round(similarity / STEP) * STEP, int(gallery.labels[row]), row))
    return found


def orders(scored: list[tuple[float, bool]]) -> Iterator[list[bool]]:
    """Every ranking, as a list of hits, that the ties allow; all are equally likely."""
    ties: dict[float, list[bool]] = defaultdict(list)
    for similarity, hit in scored:
        ties[similarity].append(hit)
    choices = []
    for similarity in sorted(ties, reverse=True):
        size = len(ties[similarity])
        places = itertools.combinations(range(size), sum(ties[similarity]))
        choices.append([[place in chosen for place in range(size)] for chosen in places])
    for groups in itertools.product(*choices):
        yield list(itertools.chain.from_iterable(groups))


def metrics(hits: list[bool], depths: tuple[int, ...]) -> dict[str, float]:
    """The textbook metrics of one ranking without ties."""
    relevant = sum(hits)
    precision = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(len(hits))]
    found = {
        "r_precision": sum(hits[:relevant]) / relevant,
        "map_at_r": sum(precision[rank] for rank in range(relevant) if hits[rank]) / relevant,
        "map": sum(precision[rank] for rank in range(len(hits)) if hits[rank]) / relevant,
        "mrr": 1 / (hits.index(True) + 1),
    }
    for depth in depths:
        found[f"r_at_{depth}"] = float(any(hits[:depth]))
        found[f"p_at_{depth}"] = sum(hits[:depth]) / depth
        found[f"mrr_at_{depth}"] = 1 / (hits.index(True) + 1) if any(hits[:depth]) else 0.0
    return found


def retrieval(queries: Rows, gallery: Rows, depths: tuple[int, ...]) -> dict[str, list[float]]:
    """Each metric of each query, NaN where it has no label or no match."""
    result: dict[str, list[float]] = defaultdict(list)
    names = metrics([True], depths)
    for query in range(len(queries)):
        label = int(queries.labels[query])
        scored = [(similarity, other == label) for similarity, other, _ in candidates(queries, gallery, query)]
        if label < 0 or not any(hit for _, hit in scored):
            means = dict.fromkeys(names, math.nan)
        else:
            every = [metrics(hits, depths) for hits in orders(scored)]
            means = {name: math.fsum(one[name] for one in every) / len(every) for name in names}
        for name, mean in means.items():
            result[name].append(mean)
    return result


def knn(queries: Rows, gallery: Rows, k: int, temperature: float) -> list[float]:
    """Probability that each query is classified rightly, NaN where it has no label or no match."""
    result = []
    for query in range(len(queries)):
        label = int(queries.labels[query])
        known = [(s, other) for s, other, _ in candidates(queries, gallery, query) if other >= 0]
        if label < 0 or label not in [other for _, other in known]:
            result.append(math.nan)
            continue
        last = sorted((s for s, _ in known), reverse=True)[:k][-1]
        nearer = [(s, other) for s, other in known if s > last]
        tied = [(s, other) for s, other in known if s == last]
        votes: dict[int, float] = defaultdict(float)
        for s, other in nearer:
            votes[other] += math.exp(s / temperature)
        for s, other in tied:
            votes[other] += math.exp(s / temperature) * min(1.0, (k - len(nearer)) / len(tied))
        winners = [other for other, vote in votes.items() if math.isclose(vote, max(votes.values()), rel_tol=1e-9)]
        result.append((label in winners) / len(winners))
    return result


def vector(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
