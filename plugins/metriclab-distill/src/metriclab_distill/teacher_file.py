"""A teacher's features from a file: one row a training image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from metriclab.api import DataError, normalize

_SAVE = "`metriclab embed RUN IMAGES --out FILE` writes such a file"


def read_features(path: Path, names: Sequence[str]) -> Float[Tensor, "n d"]:
    """Unit features of the items of these names, in their order.

    A file that `metriclab embed` wrote knows the paths of its rows, which are matched by name: it may hold other images
    too, in any order. Without paths, a row is that of the item at its place.

    Raises:
        DataError: where the file cannot be read, lacks an item, or holds anything but finite rows.
    """
    features, paths = _read(path)
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        kind = f"{features.dtype} of shape {features.shape}"
        raise DataError(f"{path} holds {kind}, expected floats of shape (images, dimensions)", help=_SAVE)
    if paths is None:
        if len(features) != len(names):
            raise DataError(
                f"{path} has {len(features):,} rows, and there are {len(names):,} training images",
                help=f"save one row a training image, in the order of the data set; or with paths, as {_SAVE}",
            )
        order = list(range(len(names)))
    else:
        order = _places(path, paths, names)
    chosen = torch.from_numpy(np.ascontiguousarray(features[order], dtype=np.float32))
    if not bool(chosen.isfinite().all()):
        raise DataError(f"{path} holds NaN or infinity", help="embed the images anew, by a model that has not diverged")
    return normalize(chosen)


def _read(path: Path) -> tuple[np.ndarray, list[str] | None]:
    try:
        if path.suffix == ".npy":
            listed = path.with_suffix(".paths.txt")
            return np.load(path, allow_pickle=False), listed.read_text().splitlines() if listed.exists() else None
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                names = list(file.keys())
                name = names[0] if len(names) == 1 else "embeddings"
                stored = (file.metadata() or {}).get("paths")
                return file.get_tensor(name), None if stored is None else json.loads(stored)
    except Exception as error:  # damage shows as nearly every exception there is
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"teacher_features = '{path}' cannot be read: {reason}", help=_SAVE) from error
    raise DataError(f"teacher_features = '{path}' has no format that can be read", help="end it in .npy, .safetensors")


def _places(path: Path, paths: list[str], names: Sequence[str]) -> list[int]:
    """Where each item is: paths are the items' names below one folder."""
    ends = [one for one in paths if one == names[0] or one.endswith(f"/{names[0]}")]
    places = {one: place for place, one in enumerate(paths)}
    for root in [one.removesuffix(names[0]) for one in ends]:
        if all(root + name in places for name in names):
            return [places[root + name] for name in names]
    lacking = names[0] if not ends else next(n for n in names if ends[0].removesuffix(names[0]) + n not in places)
    raise DataError(f"{path} has no row for the training image {lacking}", help="embed the folder of all images")
