"""A finished run as something to use: images in, features out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.assembly.assemble import build_method
from metriclab.assembly.statistics import give_statistics
from metriclab.assembly.weights import best_checkpoint
from metriclab.core.batch import Images
from metriclab.core.network import embedding_function
from metriclab.core.protocols import Views
from metriclab.errors import DataError
from metriclab.images.decode import Pixels, decode
from metriclab.images.files import require_one_format
from metriclab.images.index import format_of
from metriclab.images.stored import Stored, UnreadableImageError
from metriclab.recipe.spec import ComponentSpec
from metriclab.runs import checkpoint as checkpoints
from metriclab.runs.folder import RunFolder

Output = Literal["h", "z"]


class Embedder(nn.Module):
    """A trained network with the view it was tested on. What comes out is what the run was measured by.

    Args:
        method: trained, in evaluation mode.
        view: the test view.
        short_side: of an image file after decoding, in pixels: as the data of the run were decoded.
        pixels: what is made of an image file: as of the data of the run.
        columns: what columns of a table of images are called: as in the data of the run.
        output: what the run was measured by: the encoder's features h, or the head's embedding z.

    Attributes:
        network: encoder and head.
        takes_features: whether it embeds rows of features, and no images.
    """

    def __init__(
        self,
        method: nn.Module,
        view: Views,
        short_side: int,
        output: Output = "h",
        pixels: Pixels = "rgb",
        columns: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.short_side, self.output, self.pixels, self.columns = short_side, output, pixels, columns
        self.method = method
        self.view = view
        self.network = method.get_submodule("network")
        self.takes_features = bool(getattr(method.get_submodule("network.encoder"), "takes_features", False))

    def forward(self, images: Images, *, output: Output | None = None) -> Float[Tensor, "n d"]:
        """Embeddings of raw images, on the device of the network; not normalised."""
        device = next((tensor.device for tensor in self.method.state_dict().values()), torch.device("cpu"))
        embedded = embedding_function(self.method)(self.view.test(images.to(device)))
        embedding: Tensor = getattr(embedded, output or self.output)
        return embedding

    def files(
        self, paths: Sequence[str | Path], *, output: Output | None = None, batch_size: int = 256
    ) -> Iterator[Float[Tensor, "n d"]]:
        """Embeddings of image files in their order, batch by batch, on the CPU.

        Raises:
            DataError: naming the file that cannot be read.
        """
        first: list[tuple[Path, tuple[int, int]]] = []
        for start in range(0, len(paths), batch_size):
            some = [Path(path) for path in paths[start : start + batch_size]]
            decoded = [_decoded(path, self.short_side, self.pixels) for path in some]
            formats = [*first, *((path, format_of(image)) for path, image in zip(some, decoded, strict=True))]
            require_one_format([path for path, _ in formats], np.array([format for _, format in formats]))
            first = formats[:1]
            images = Images.padded(decoded)
            with torch.no_grad():
                embedded = self(images, output=output).float().cpu()
            yield embedded

    def rows(
        self, features: Float[Tensor, "n d"], *, output: Output | None = None, batch_size: int = 4096
    ) -> Iterator[Float[Tensor, "n e"]]:
        """Embeddings of features that exist already, for a run that was trained on such; batch by batch, on the CPU."""
        for part in torch.split(features, batch_size):
            with torch.no_grad():
                embedded = self(Images.of_features(part), output=output).float().cpu()
            yield embedded


def _decoded(path: Path, short_side: int, pixels: Pixels) -> Stored:
    try:
        return decode(path, short_side, pixels)
    except UnreadableImageError as error:
        raise DataError(f"{path}: {error}", help="repair it, or leave it out") from error


def load(run: str | Path, *, step: int | None = None) -> Embedder:
    """The trained encoder of a run folder, ready to embed, on the CPU.

    Args:
        run: the run folder.
        step: of a checkpoint; by default the best one, or the newest of an unfinished run.

    Raises:
        StorageError: where the folder is no run, or its checkpoint is missing or damaged.
    """
    folder = RunFolder(Path(run))
    recipe = folder.recipe()
    saved = best_checkpoint(folder) if step is None else checkpoints.read_checkpoint(folder.checkpoints, step)
    classes = torch.tensor(folder.manifest().get("classes", []), dtype=torch.int64)
    method = build_method(recipe, classes, initial=saved is None)
    if saved is not None:
        checkpoints.restore_method(saved, method)
    else:
        give_statistics(method.get_submodule("network"), folder.manifest().get("statistics"))
    encoder: Any = method.get_submodule("network.encoder")
    if hasattr(encoder, "merge"):  # adapters beside weights that they are added to
        encoder.merge()
    views, output = recipe.components["views"].build(), recipe.train.output
    # Keys that data sets of image files have; others draw or hold images of that size.
    params = _innermost(recipe.components["dataset"]).params
    size, pixels, columns = params.get("size"), params.get("pixels", "rgb"), params.get("columns")
    short_side = size if isinstance(size, int) else 256
    return Embedder(method.eval(), views, short_side, output, pixels, columns if isinstance(columns, Mapping) else None)


def _innermost(data: ComponentSpec) -> ComponentSpec:
    """The data set that reads the files, where others are made of it."""
    for parameter in data.definition.parameters:
        if parameter.table_of is not None and parameter.table_of.kind == "dataset" and data.params[parameter.name]:
            return _innermost(data.inner("dataset", data.params[parameter.name]))
    return data
