"""What a sampler that goes by embeddings is given: those of the run, of an earlier one, or of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.assembly.embedder import load
from metriclab.evaluation.embed import EmbeddingSettings, embed, embedding_settings, evaluating
from metriclab.recipe import Recipe
from metriclab.vectors.aligned import unit_rows_for


def embed_items(training: Training) -> Float[Tensor, "n d"]:
    """Unit embeddings z of all items, the same on every rank. Training does not notice."""
    with evaluating(training.method) as encode:
        return embed(encode, training.data, embedding_settings(training)).z.z


def use_source(recipe: Recipe, training: Training) -> None:
    """Gives a sampler that goes by embeddings those of the run or the file that its `source` names.

    Raises:
        StorageError, DataError: where there is no such run or file, or it does not fit the training images.
    """
    source = recipe.components["sampler"].params.get("source")
    if source is None or not hasattr(training.sampler, "use_embeddings"):
        return
    sampler: Any = training.sampler
    sampler.use_embeddings(_embeddings_by(Path(source), training))


def _embeddings_by(source: Path, training: Training) -> Float[Tensor, "n d"]:
    if source.is_file():
        return distributed.on_every_rank(lambda: unit_rows_for(source, training.data.names))
    embedder = distributed.on_every_rank(lambda: load(source).to(training.device))
    here = embedding_settings(training)
    settings = EmbeddingSettings(embedder.view, here.device, here.batch_size, here.precision)
    with evaluating(embedder.method) as encode:
        rows = getattr(embed(encode, training.data, settings), embedder.output)
    return rows.z  # type: ignore[no-any-return]  # of the rows
