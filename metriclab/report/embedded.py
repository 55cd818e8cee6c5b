"""A finished run's images embedded once more, and what lies next to what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab.assembly.devices import choose_device
from metriclab.assembly.embedder import load
from metriclab.assembly.splits import sides_of
from metriclab.core.protocols import Dataset
from metriclab.core.rows import Rows
from metriclab.core.splits import build_splits, has_features
from metriclab.errors import DataError
from metriclab.evaluation.embed import EmbeddingSettings, embed_splits, evaluating
from metriclab.ranking.candidates import are_candidates, groups_as_items
from metriclab.recipe import Recipe
from metriclab.report.blocks import shorten
from metriclab.runs.folder import RunFolder

SHOWN = 8
_TILE = 256


@dataclass(frozen=True, slots=True)
class Data:
    """The images that a run was measured on: its test split, and the gallery, the same object for leave-one-out."""

    queries: Dataset
    gallery: Dataset

    def name(self, label: int) -> str:
        """What a class is called."""
        return shorten(str(self.queries.classes[label])) if label >= 0 else "unknown"


class Embedded(NamedTuple):
    """A run's queries with their nearest gallery rows.

    Attributes:
        queries: unit rows of the output that was measured.
        near: indices of gallery rows, nearest first, -1 past the last one.
        similarity: cosines of them.
        labels: of them.
        right: whether they are of the query's class.
        without_group: whether gallery rows of the query's class and group were left out, as the metric leaves them out.
    """

    queries: Rows
    near: Int64[np.ndarray, "q k"]
    similarity: Float[np.ndarray, "q k"]
    labels: Int64[np.ndarray, "q k"]
    right: Bool[np.ndarray, "q k"]
    without_group: bool = False


def open_data(path: Path) -> Data | None:
    """The data of the run in a folder; None where they are features, of which nothing can be shown.

    Raises:
        DataError: where they are not there, or not what the run was measured on.
    """
    folder = RunFolder(path)
    recipe, fingerprints = folder.recipe(), folder.manifest()["data"]
    help = "put the data back as they were, or make a report without images with --no-images"
    try:
        chosen = recipe.components["dataset"]
        chosen = replace(chosen, params=_without_download(chosen.params))
        test, train = build_splits(chosen.build, ("test", "train"))
        present = {"test": test.fingerprint, "train": train.fingerprint}
    except DataError as error:
        raise DataError(f"the data of {path} cannot be read: {error.message}", help=help) from error
    for split, fingerprint in present.items():
        if fingerprint != fingerprints.get(split):
            raise DataError(
                f"the data of {path} have changed since it ran: the {split} split is another one", help=help
            )
    return None if has_features(test) else Data(*sides_of(test, train))


def _without_download(table: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a data set, and of one within it: whatever a run folder says, a report fetches nothing."""
    return {
        key: _without_download(value) if isinstance(value, Mapping) else False if key == "download" else value
        for key, value in table.items()
    }


def embed_run(path: Path, data: Data, metric: str | None = None) -> Embedded:
    """The run's best checkpoint on its data; what a metric leaves out of the gallery is not among what was found.

    Raises:
        StorageError: where its checkpoint is missing or damaged.
    """
    embedder, recipe = load(path), RunFolder(path).recipe()
    device, train = choose_device("auto"), recipe.train
    settings = EmbeddingSettings(embedder.view, device, train.evaluation_batch_size, train.precision)
    with evaluating(embedder.method.to(device)) as encode:
        queries, gallery = embed_splits(encode, data.queries, data.gallery, settings).rows(embedder.output)
    without_group = _leaves_out_groups(recipe, metric)
    if without_group:
        queries, gallery = groups_as_items(queries, gallery)
    near, similarity = find_neighbours(queries, gallery, SHOWN)
    labels = torch.where(near >= 0, gallery.labels[near.clamp(min=0)], -1)
    right = (labels == queries.labels[:, None]) & (labels >= 0)
    found = (side.cpu().numpy() for side in (near, similarity, labels, right))
    return Embedded._make((queries, *found, without_group))


def _leaves_out_groups(recipe: Recipe, metric: str | None) -> bool:
    label = (metric or "").rpartition(".")[0]
    return any(one.label == label and one.params.get("exclude") == "same-group" for one in recipe.evaluators)


@torch.no_grad()
def find_neighbours(queries: Rows, gallery: Rows, k: int) -> tuple[Int64[Tensor, "q k"], Float[Tensor, "q k"]]:
    """The k gallery rows of highest cosine for each query, without its own item.

    A gallery of fewer rows leaves -1 and NaN at the end.
    """
    near = torch.full((len(queries), k), -1, device=queries.z.device)
    similarity = torch.full((len(queries), k), torch.nan, device=queries.z.device)
    for part in torch.split(torch.arange(len(queries), device=queries.z.device), _TILE):
        cosines = queries.z[part] @ gallery.z.T
        cosines.masked_fill_(~are_candidates(queries.items[part, None], gallery.items), -torch.inf)
        values, places = cosines.topk(min(k, cosines.shape[1]), dim=1)
        there = values > -torch.inf
        near[part, : places.shape[1]] = torch.where(there, places, -1)
        similarity[part, : places.shape[1]] = torch.where(there, values, torch.nan).to(similarity)
    return near, similarity


class Confusion(NamedTuple):
    """Two classes that are taken for each other.

    Attributes:
        labels: of the classes, the smaller first.
        wrong: queries of either whose nearest image is of the other.
        queries: of both classes.
        query, gallery: the nearest such pair, as indices.
        similarity: of that pair.
    """

    labels: tuple[int, int]
    wrong: int
    queries: int
    query: int
    gallery: int
    similarity: float


def count_confusions(embedded: Embedded, most: int) -> list[Confusion]:
    """The pairs of classes with the most queries whose nearest image is of the other class, most confused first."""
    own, other = embedded.queries.labels.cpu().numpy(), embedded.labels[:, 0]
    wrong = np.flatnonzero((own >= 0) & (other >= 0) & (own != other))
    if not len(wrong):
        return []
    pairs = np.sort(np.stack([own[wrong], other[wrong]], 1), axis=1)
    kinds, kind, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    sizes = dict(zip(*(side.tolist() for side in np.unique(own, return_counts=True)), strict=True))
    confused = []
    for at in np.argsort(-counts, kind="stable")[:most].tolist():
        queries = wrong[kind.reshape(-1) == at]
        query = int(queries[np.nanargmax(embedded.similarity[queries, 0])])
        one, two = kinds[at].tolist()
        total = sizes.get(one, 0) + sizes.get(two, 0)
        example = (query, int(embedded.near[query, 0]), float(embedded.similarity[query, 0]))
        confused.append(Confusion((one, two), int(counts[at]), total, *example))
    return confused


class Plane(NamedTuple):
    """Rows seen in their first two principal components, and the share of the variance that each of these holds."""

    points: Float[np.ndarray, "n 2"]
    share: tuple[float, float]


def project(rows: Rows) -> Plane:
    """PCA to two dimensions; the sign of an axis is that of its largest weight, so that it is always the same."""
    z = rows.z.double().cpu()
    centred = z - z.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = torch.zeros(z.shape[1], 2, dtype=torch.float64)
    first = vectors.flip(1)[:, :2]
    axes[:, : first.shape[1]] = first * first.gather(0, first.abs().argmax(0, keepdim=True)).sign()
    shares = [*(values.flip(0)[:2].clamp(min=0) / values.sum().clamp(min=1e-30)).tolist(), 0.0]
    return Plane((centred @ axes).numpy(), (shares[0], shares[1]))
