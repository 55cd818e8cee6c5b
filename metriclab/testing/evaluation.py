"""An evaluator called as a run calls it, on small sets of rows, and what it measures compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metriclab.core.protocols import Change, Dataset, Score
from metriclab.core.rows import Rows, rows
from metriclab.errors import DivergedError

CLOSE = 1e-6
"""Largest difference of values that must be equal but for rounding, beside the largest value or 1."""

_SIDE = 8
"""Height and width of the images of the tiny encoder."""


@dataclass(frozen=True, slots=True)
class Measure:
    """The evaluator, called as a run calls it."""

    name: str
    evaluator: Any

    @property
    def wants_encoder(self) -> bool:
        return getattr(self.evaluator, "wants", "rows") == "encoder"

    def __call__(self, queries: Rows, gallery: Rows, what: str) -> Mapping[str, Score]:
        try:
            if self.wants_encoder:
                return self.evaluator(_TinyEncoder(queries, gallery))  # type: ignore[no-any-return]
            return self.evaluator(queries, gallery)  # type: ignore[no-any-return]
        except DivergedError:
            raise
        except Exception as error:
            raise AssertionError(f"{self.name} raises on {what}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class _TinyEncoder:
    """A linear encoder of tiny images, with its queries and gallery."""

    queries: Rows
    gallery: Rows

    def embed_changed(self, change: Change, chosen: Tensor, /) -> Rows:
        part = self.queries[chosen]
        images = torch.stack([_picture(item) for item in part.items.tolist()])
        moved = (change(images.clone(), part.items) - images).flatten(1) @ _projection(self.queries.embedding_dim)
        return rows(part.z + moved, part.labels, part.items)

    def embed_other(self, test: Dataset, train: Dataset, /) -> tuple[Rows, Rows]:
        sides = [self._embedded(test), self._embedded(train)]
        shared = set(test.labels.tolist()) & set(train.labels.tolist())
        return (sides[0], sides[1]) if shared else (sides[0], sides[0])

    def _embedded(self, data: Dataset) -> Rows:
        labels = torch.from_numpy(data.labels)
        items = torch.arange(len(labels))
        pixels = data.images(items.numpy()).pixels.float() / 255
        means = torch.nn.functional.adaptive_avg_pool2d(pixels, _SIDE).mean(1, keepdim=True).expand(-1, 3, -1, -1)
        z = (means - 0.5).flatten(1) @ _projection(self.queries.embedding_dim)
        # An encoder that has diverged has diverged for every image.
        return rows(z + self.queries.z.sum() * 0, labels, items)


def _picture(item: int) -> Tensor:
    return torch.rand(3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(item))


def _projection(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3 * _SIDE * _SIDE, width, generator=generator) / 10


def some_near_centres(seed: int, labels: list[int], width: int = 6) -> Rows:
    """Rows near the centre of their class, items of their own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(8, width, generator=torch.Generator().manual_seed(99))
    known = torch.tensor(labels)
    z = centres[known.clamp(min=0) % 8] + 0.8 * torch.randn(len(labels), width, generator=generator)
    return rows(z, known, torch.arange(len(labels)) + 1000 * seed)


LABELS = [0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 0, 1, 2, 3, -1, -1, 4]
"""Four classes of some rows, two rows of unknown label, a class of one row."""


def settings() -> list[tuple[str, Rows, Rows]]:
    alone, gallery = some_near_centres(0, LABELS), some_near_centres(1, [*LABELS[:-1], 5, 0, 1])
    return [("leave-one-out", alone, alone), ("a gallery of its own", alone, gallery)]


def compare_scores(
    name: str, expected: Mapping[str, Score], found: Mapping[str, Score], order: Tensor, fault: str
) -> None:
    assert expected.keys() == found.keys(), f"{name} gives other metrics {fault}"
    for key, one in expected.items():
        other = found[key]
        values = [one.value, other.value]
        assert near(torch.tensor(values[:1]), torch.tensor(values[1:])), (
            f"'{key}' of {name} is {values[0]} or {values[1]} {fault}"
        )
        if len(one.per_query):
            assert near(one.per_query[order], other.per_query), f"per_query of '{key}' of {name} is another one {fault}"


def near(one: Tensor, other: Tensor) -> bool:
    scale = max(1.0, float(other.nan_to_num(0, 0, 0).abs().max()) if len(other) else 1.0)
    return torch.allclose(one.double(), other.double(), rtol=0, atol=CLOSE * scale, equal_nan=True)
