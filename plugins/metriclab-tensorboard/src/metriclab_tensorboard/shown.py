"""Images of a finished run, and where its encoder puts them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from metriclab.api import Rows, build, load, rows

LARGEST = 64
"""Pixels of a picture's side; larger ones are averaged down."""

OF_A_CLASS = 10
"""Images of each class shown, and more where classes are few."""

BATCH = 100
FRAME = 2  # pixels
QUERY, RIGHT, WRONG, UNKNOWN = (1.0, 1.0, 1.0), (0.0, 0.45, 0.7), (0.9, 0.4, 0.0), (0.5, 0.5, 0.5)
"""Colours of frames; blue and orange are told apart by nearly everybody."""


@dataclass(frozen=True, slots=True)
class Some:
    """Images of the test split.

    Attributes:
        rows: their unit embeddings, of the output by which the run was measured.
        pictures: what the encoder saw, in colour, square and small.
        classes: names of their classes.
        names: of the images.
    """

    rows: Rows
    pictures: Float[Tensor, "n 3 side side"]
    classes: list[str]
    names: list[str]


@torch.no_grad()
def embed_some(run: Path, count: int) -> Some:
    """Images of the test split of a finished run, at most so many, embedded by its best checkpoint; see `some_items`.

    Raises:
        MetriclabError: where the run's checkpoint or data cannot be read.
    """
    table = tomllib.loads((run / "recipe.toml").read_text("utf-8"))["data"]
    data = build("dataset", table.pop("name"), "test", **table)
    embedder = load(run)
    chosen = some_items(data.labels, count)
    embeddings, pictures = [], []
    for start in range(0, len(chosen), BATCH):
        images = data.images(chosen[start : start + BATCH])
        embeddings.append(embedder(images).float().cpu())
        pictures.append(small(embedder.view.test(images)))
    labels = torch.from_numpy(data.labels[chosen])
    return Some(
        rows(torch.cat(embeddings), labels, torch.from_numpy(chosen)),
        torch.cat(pictures),
        [one_line(data.classes[label]) if label >= 0 else "unknown" for label in labels.tolist()],
        [one_line(data.names[item]) for item in chosen.tolist()],
    )


def some_items(labels: Int64[np.ndarray, "n"], count: int) -> Int64[np.ndarray, "m"]:
    """Some items of some classes, at most so many in all: classes, and items of a class, taken evenly."""
    classes = np.unique(labels)
    each = min(count, max(OF_A_CLASS, count // len(classes)))
    parts = []
    for label in classes[evenly(len(classes), -(-count // each))]:
        members = np.flatnonzero(labels == label)
        parts.append(members[evenly(len(members), each)])
    return np.concatenate(parts)[:count]


def evenly(n: int, count: int) -> Int64[np.ndarray, "m"]:
    """At most so many indices below n, at equal distances."""
    return np.linspace(0, n - 1, min(n, count)).round().astype(np.int64)


def small(views: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 side side"]:
    """Pictures of views: in colour, square, no larger than `LARGEST`."""
    return adaptive_avg_pool2d(views, min(LARGEST, *views.shape[2:])).expand(-1, 3, -1, -1)


def one_line(text: object) -> str:
    """The text as a cell of a table whose columns tabs part."""
    return " ".join(str(text).split())


def retrieval_image(some: Some, queries: int, nearest: int) -> Float[Tensor, "3 height width"]:
    """A row for each of some images, taken evenly: the image itself, then the most similar others, framed by class."""
    z, labels = some.rows.z, some.rows.labels
    chosen = torch.from_numpy(evenly(len(z), queries))
    similarity = z[chosen] @ z.T
    similarity[torch.arange(len(chosen)), chosen] = -torch.inf
    found = similarity.topk(min(nearest, len(z) - 1), dim=1).indices
    lines = []
    for query, others in zip(chosen.tolist(), found.tolist(), strict=True):
        frames = [frame(int(labels[query]), int(labels[other])) for other in others]
        framed = [framed_in(some.pictures[query], QUERY), *map(framed_in, some.pictures[others], frames)]
        lines.append(torch.cat(framed, dim=2))
    return torch.cat(lines, dim=1)


def frame(label: int, other: int) -> tuple[float, float, float]:
    """The colour that says whether two images are of one class."""
    if label < 0 or other < 0:
        return UNKNOWN
    return RIGHT if label == other else WRONG


def framed_in(
    picture: Float[Tensor, "3 side side"], colour: tuple[float, float, float]
) -> Float[Tensor, "3 outer outer"]:
    """The picture with a frame of a colour, and a black gap around both."""
    channels = [pad(channel, [FRAME] * 4, value=value) for channel, value in zip(picture, colour, strict=True)]
    return pad(torch.stack(channels), [FRAME] * 4)
