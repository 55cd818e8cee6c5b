"""Embeddings of a data set's own items, out of a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from metriclab.errors import DataError
from metriclab.vectors.arrays import embeddings_of
from metriclab.vectors.formats import read_arrays
from metriclab.vectors.rows import unit


def unit_rows_for(path: Path, names: Sequence[str]) -> Float32[Tensor, "n d"]:
    """The rows of a file for items of these names, with norm 1: by the paths in it, else its rows in their order.

    Raises:
        DataError: where an item has no row, or the file cannot be read; see `embeddings_of`.
    """
    arrays, paths = read_arrays(path)
    z = unit(embeddings_of(path, arrays), path)
    if paths is None:
        if len(z) != len(names):
            raise DataError(
                f"{path} has {len(z):,} embeddings for {len(names):,} training images",
                help="give one for each, in their order, or a file that `metriclab embed` wrote, which has their paths",
            )
        return z
    row_of = {os.path.abspath(name): row for row, name in enumerate(paths)}
    found = [row_of.get(os.path.abspath(name), -1) for name in names]
    if -1 in found:
        raise DataError(
            f"{path} has no row for {found.count(-1):,} of {len(names):,} training images, "
            f"the first is {names[found.index(-1)]}",
            help="embed the folder that has all of them",
        )
    return z[torch.tensor(found)]
