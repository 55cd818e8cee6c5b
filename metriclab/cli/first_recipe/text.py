"""The recipe for somebody's images, as text with its reasons; the settings of recipes/finetune.toml where none speaks
for others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from metriclab.cli.first_recipe.photos import LOOKED_AT, Photos
from metriclab.core.reading import printable
from metriclab.errors import DataError
from metriclab.registry.toml import toml_value
from metriclab.samplers import Balanced

BATCH = 64
STEPS = 800
MOST_CLASSES = 16
FEWEST = 2
SIDES = (32, 48, 64, 96, 128, 160, 192, 224)
LONG = 1.5


class Batch(NamedTuple):
    """A balanced batch."""

    classes: int
    per_class: int


def recipe_text(photos: Photos) -> str:
    """A recipe as a file.

    Raises:
        DataError: where the images are too few for a batch of two, or their folder has a name that is no text.
    """
    batch = balanced_batch(photos.train)
    if batch is None and len(photos.train) < FEWEST:
        raise DataError(f"{photos.root}: one image is left to train on", help="give it more images")
    method = _without_labels(photos) if batch is None else _with_labels(photos, batch)
    text = "\n".join([*_head(photos), *_data(photos), *_views(photos, labelled=batch is not None), *method]) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{printable(str(photos.root))}: the name of this folder is no text, and a recipe is",
            help="make a link to it of another name, and name that",
        ) from error
    return text


def balanced_batch(labels: Int64[np.ndarray, "n"]) -> Batch | None:
    """So many classes, and images of each, that most classes can be drawn; None where no two have two images."""
    sizes = np.unique(labels[labels >= 0], return_counts=True)[1]
    per_class = max(4, BATCH // max(1, min(MOST_CLASSES, len(sizes))))
    while per_class > 2 and (sizes >= per_class).sum() < len(sizes) / 2:
        per_class = max(2, per_class // 2)
    drawn = int((sizes >= per_class).sum())
    return None if drawn < 2 else Batch(min(BATCH // per_class, drawn), per_class)


def _head(photos: Photos) -> Iterator[str]:
    classes = f" of {photos.classes:,} classes" if photos.classes else " without classes"
    yield f"# A first recipe for {printable(str(photos.root))}: {photos.images:,} images{classes}."
    yield "# It fine-tunes a pretrained encoder, which timm fetches when the run starts."
    yield "#"
    yield "#   metriclab check RECIPE --data     copies, damaged files, classes of one image"
    yield "#   metriclab run RECIPE"
    if photos.unreadable:
        yield "#"
        looked_at = min(photos.images, LOOKED_AT)
        yield f"# Of {looked_at} files looked at, {photos.unreadable} could not be opened as images."


def _data(photos: Photos) -> Iterator[str]:
    side = view_side(photos)
    yield "\n[data]"
    yield 'name = "folder"'
    yield f"root = {toml_value(str(photos.root))}"
    yield f"size = {side * 8 // 7}          # a little above the views, which are cut out of it"
    held = ", ".join(
        f"{name} {images:,}" + (f" of {classes:,}" if classes else "")
        for name, (images, classes) in photos.held.items()
    )
    yield f"# {photos.why}; train has {len(photos.train):,} images, {held}."
    for key, value in photos.splits.items():
        yield f"{key} = {toml_value(value)}"


def view_side(photos: Photos) -> int:
    """Of the views: what the weights were trained with, or less where images are smaller and have no more to show."""
    return max((side for side in SIDES if side <= (photos.short_side or SIDES[-1])), default=SIDES[0])


def _views(photos: Photos, *, labelled: bool) -> Iterator[str]:
    seen = f"the images' short side is {photos.short_side}" if photos.short_side else "no image could be opened"
    yield "\n[views]"
    yield 'name = "simclr"'
    if labelled:
        yield "count = 1           # classes say who is alike"
    yield f"size = {view_side(photos)}          # {seen} in the middle; 224 is what the encoder knows"
    if (photos.aspect or 1.0) >= LONG:
        yield f'fit = "pad"         # the long side is {photos.aspect:.1f} times the short: a middle would show little'
    yield f"min_area = {0.5 if labelled else 0.2}      # higher where a part of the image could be of another class"
    yield "flip = 0.5          # 0.0 where left and right differ, as in text"
    yield f"colour = {0.4 if labelled else 0.8}        # lower where colour says the class"
    yield f"grayscale = {0.0 if labelled else 0.2}"
    yield f"blur = {0.0 if labelled else 0.5}"


def _with_labels(photos: Photos, batch: Batch) -> Iterator[str]:
    steps = Balanced(photos.train, classes_per_batch=batch.classes, per_class=batch.per_class).steps
    epochs = _epochs(steps)
    yield "\n[sampler]"
    yield 'name = "balanced"'
    yield f"classes_per_batch = {batch.classes}"
    yield f"per_class = {batch.per_class}       # most classes have so many; those of fewer are not drawn"
    yield from _ENCODER
    yield _HEAD_WITH_LABELS
    yield from _optimizer(0.0001)
    yield from _train(photos, epochs, steps)


def _without_labels(photos: Photos) -> Iterator[str]:
    batch = min(4 * BATCH, len(photos.train))
    steps = len(photos.train) // batch
    yield "\n[sampler]"
    yield 'name = "shuffled"'
    yield f"batch_size = {batch}    # the other images of a batch are its negatives: the more, the better"
    yield from _ENCODER
    yield _HEAD_WITHOUT_LABELS
    yield from _optimizer(0.0001)
    yield from _train(photos, _epochs(steps), steps)


_ENCODER = [
    "",
    "[encoder]",
    'name = "timm"',
    'model = "convnext_tiny.in12k_ft_in1k"',
    'pretrained = true   # or weights = "file", where no hub can be reached',
]

_HEAD_WITH_LABELS = """
[head]
name = "linear"
embedding_dim = 128

[loss]
name = "multi-similarity"

[miner]
name = "multi-similarity"

[method]
name = "supervised\""""

_HEAD_WITHOUT_LABELS = """
[head]
name = "mlp"
hidden = 512
embedding_dim = 128

[loss]
name = "nt-xent"
temperature = 0.1

[method]
name = "simclr"     # no labels to go by: two views of an image are alike, all else is not"""


def _optimizer(rate: float) -> Iterator[str]:
    yield "\n[optimizer]"
    yield 'name = "adamw"'
    yield f"learning_rate = {rate}"
    yield "weight_decay = 0.0001"
    yield "groups = { head = 10.0 }   # it starts from random weights, and the encoder does not"
    yield "\n[schedule]"
    yield 'name = "cosine"'
    yield "warmup = 0.1"


def _epochs(steps: int) -> int:
    return min(100, max(2, round(STEPS / max(1, steps))))


def _train(photos: Photos, epochs: int, steps: int) -> Iterator[str]:
    yield "\n[train]"
    yield f"epochs = {epochs}         # of {steps:,} steps: about {epochs * steps:,} of them"
    if photos.held["val"][1]:
        yield "evaluate_every = 1  # val chooses the epoch that is kept"
    yield "\n[[evaluate]]"
    yield 'name = "retrieval"'
    if not photos.held["test"][1]:
        yield "# The test split has no classes: the run trains and saves its encoder, and has nothing to measure it by."
