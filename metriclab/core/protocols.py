"""What each kind of component is. A component is anything that fits; nothing is inherited.

A registered thing is a callable: its keyword-only parameters are the keys of its recipe table, its positional-only
parameters are given by the run, and what it returns fits the protocol of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from metriclab.core.batch import Batch, Images
from metriclab.core.pairs import Pairs
from metriclab.core.random import RandomKeys
from metriclab.core.rows import Rows


@runtime_checkable
class Miner(Protocol):
    """Chooses among pairs: `miner(pairs) -> pairs` whose masks may only shrink.

    One that goes by `categories` says so by an attribute `needs = ("categories",)`: a run whose data have none is
    refused. So does a method that goes by `groups`, and an evaluator.
    """

    def __call__(self, pairs: Pairs, /) -> Pairs: ...


@runtime_checkable
class Loss(Protocol):
    """`loss(anchors, references) -> scalar`. State, if any, in the buffers and parameters of an `nn.Module`.

    It is built with (embedding_dim, classes), the latter the sorted training labels, or with neither.

    A loss that sums over anchors says so by an attribute `pairwise = True` (a `PairLoss` does): it is called with this
    rank's anchors against the references of all ranks. Any other loss is given the rows of all ranks on both sides.
    One that is meant for learned rows of classes says so by `needs_memory = True`: a recipe must have a memory then.
    """

    def __call__(self, anchors: Rows, references: Rows, /) -> Float[Tensor, ""]: ...


@runtime_checkable
class Memory(Protocol):
    """References that outlive a batch, all of their state in buffers or parameters.

    It is built with (embedding_dim, classes), the latter the sorted training labels, or with embedding_dim alone.
    """

    def rows(self) -> Rows: ...
    def push(self, rows: Rows, /) -> None: ...


class Objective(NamedTuple):
    """What a method minimises in one step.

    Attributes:
        loss: scalar; the run minimises its mean over ranks.
        metrics: scalar tensors to log, the same on every rank; one of a name that the run logs too takes its place.
    """

    loss: Float[Tensor, ""]
    metrics: Mapping[str, Tensor]


@runtime_checkable
class Method(Protocol):
    """A way of training, an `nn.Module` built with (network); state only in buffers and parameters.

    One that changes over a run, as a momentum with a schedule, is built with (network, total_steps), the latter 1 or
    more; which step it is, `after_step` is told.

    A class whose memory holds the encoder's features, and not the head's embeddings, says so by an attribute
    `remembers = "h"`: the memory is then built with their width. A method whose encoder is frozen, and that only needs
    its features of the test view, says so by an attribute `trains_on = "features"` (default "images"): the run computes
    them once, and batches have `features` in place of `views`. A class whose parameter `features = "cached"` shall give
    what it gives without says so by an attribute `plain_features = True`: a recipe's views must not be random then.
    One whose loss tells classes apart says so by an attribute `by_class = True`: without any label it is refused.
    Outputs are a `Rows`, or the method's own NamedTuple of `Rows` and of tensors with a leading row axis.

    A module anywhere in it (a loss, a memory) that has numbers of its own to log, as a temperature that is learned, has
    `logged_values() -> {name: scalar tensor}`, asked at each step that is logged.

    One that needs another, frozen encoder's features has `prepare(names, features)`, called once on every rank before
    the first step, also of a resumed run: `names` of the training items in their order, and `features(table)`, which
    gives the unit features of all of them by the encoder of that table, of the test view. What it keeps is no state.

    Evaluation sees `network(images)`. A method of which it shall see something else has
    `embed(images) -> Embedded`.
    """

    def forward(self, batch: Batch) -> Any:
        """Outputs of this rank's images, with gradients."""

    def objective(self, local: Any, world: Any) -> Objective:
        """The loss of this rank's outputs against those of all ranks. No side effects."""

    def after_step(self, world: Any, step: int) -> None:
        """What follows the optimizer's step: moving averages, memories. No gradients."""


Split = Literal["train", "val", "test"]
"""The parts of a data set: to train on, to choose the checkpoint by, to measure on."""


@runtime_checkable
class Dataset(Protocol):
    """Built with (split), see `Split`. Labels are known without reading an image.

    One that can give the other splits without looking for its files again has a method `with_split(split) -> Dataset`;
    the others are built once a split. One of features in place of images says so by `has_features = True`, and its
    `images` gives `Images.of_features`.

    It may also have `groups` and `categories`, numbered like labels: what makes two images of a class too easy a match,
    and coarser classes. And `is_query` and `is_gallery`, booleans, where val or test say so themselves. None is none.

    Attributes:
        labels: int64, one an item, negative for unknown. Equal labels mean equal classes across the splits.
        classes: name of each label: `classes[label]`.
        fingerprint: hex digest of the content (images and labels) of this split.
        names: what to call each item in messages and exports (a path, or "glyphs/test/17").
    """

    labels: np.ndarray
    classes: Sequence[str]
    fingerprint: str
    names: Sequence[str]

    def images(self, items: np.ndarray, /) -> Images:
        """The images of these items, on the CPU, in this order. May be called from a loading thread."""


@runtime_checkable
class Views(Protocol):
    """Augmentation in batches on the device, each image with random numbers of its own.

    Those that hand features on as they are say so by `takes_features = True`. A class whose training views are all the
    test view says so by an attribute `random = False`. Those that turn hues, or do what else needs red, green and blue,
    say so by a mapping `needs_colour`: each key of the recipe that asks for it, with a value that does not. A run on
    images that have neither 1 nor 3 channels is then refused. Pixels are divided by `images.white`. What posterises, or
    has other steps over which rounding may take a pixel, says `has_steps = True`: the conformance kit allows for a few.

    Attributes:
        count: number of training views of an image.
    """

    count: int

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Float[Tensor, "n c _h _w"], ...]:
        """`count` random views, float in [0, 1], a pure function of the images and of their keys."""

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The one view that evaluation and embedding use; deterministic."""


@runtime_checkable
class Sampler(Protocol):
    """The order of items, built with (labels).

    One that knows what an epoch draws without drawing it says so by `coverage(seed)`: how many items, and of how many
    classes. A run tells it before its first step; of other samplers it counts, over a whole epoch.

    One that goes by embeddings is an `nn.Module` with its state in buffers, which are saved with checkpoints. Before an
    epoch of which it says `needs_embeddings(epoch)`, the run calls `use_embeddings(z)` with the unit embeddings of all
    items, the same on every rank. Where it has a key `source`, a run or a file, those are its first.

    Attributes:
        batch_size: rows of a global batch, over all ranks.
        steps: global batches an epoch.
    """

    batch_size: int
    steps: int

    def epoch(self, seed: int, /) -> Iterable[np.ndarray]:
        """Global batches of item indices (int64): a pure function of the seed."""


Schedule = Callable[[int], float]
"""Step (from 0) -> factor of the learning rate; built with (total steps)."""


@dataclass(frozen=True, slots=True)
class Score:
    """One metric.

    Attributes:
        value: the metric over all counted queries; NaN where no query counts.
        per_query: one value a query, NaN for a query left out; empty for a metric that no single query has.
        definition: how it is computed, in a sentence: k, the self-match rule, ties, queries without matches, version.
        per_class: by label, for a metric of classes that is no mean over queries.
    """

    value: float
    per_query: Tensor
    definition: str = ""
    per_class: Mapping[int, float] = field(default_factory=dict)


@runtime_checkable
class EvaluatedEncoder(Protocol):
    """An encoder under evaluation, for evaluators that need more than the rows of the test split."""

    @property
    def queries(self) -> Rows:
        """As evaluators of rows are given them."""

    @property
    def gallery(self) -> Rows:
        """The queries again for leave-one-out."""

    def embed_changed(self, change: Change, chosen: Int64[Tensor, "n"], /) -> Rows:
        """The chosen queries, embedded anew from their test views as `change` makes them."""

    def embed_other(self, test: Dataset, train: Dataset, /) -> tuple[Rows, Rows]:
        """Queries and gallery of another data set: the same object where its test classes are not in `train`."""


Change = Callable[[Float[Tensor, "n c h w"], Int64[Tensor, "n"]], Float[Tensor, "n c h w"]]
"""Test views in [0, 1] and the items they are of -> the same views, changed."""


@runtime_checkable
class Evaluator(Protocol):
    """Measures embeddings: `evaluator(queries, gallery)`, where a gallery row of the query's own item is no candidate.

    Leave-one-out is nothing else: the queries as their own gallery, or a copy of them, or a gallery they lie in.

    One that needs the encoder itself says so by an attribute `wants = "encoder"` (default "rows"): it is called with
    a `EvaluatedEncoder` in place of both, and at the end of a run alone, not on val.

    One of prefixes of the embedding, whose parameter `dims` lists their lengths, says so by an attribute
    `of_prefixes = True`: a recipe's dims are held against the embedding.

    One that takes long may also say how far it is, by a method `steps(queries, gallery)`: a generator that yields the
    share done and returns what a call returns.
    """

    def __call__(self, queries: Rows, gallery: Rows, /) -> Mapping[str, Score]: ...


@runtime_checkable
class Tracker(Protocol):
    """Receives numbers, built with (run folder). Only the first rank has trackers."""

    def log(self, step: int, values: Mapping[str, float], /) -> None: ...
    def close(self) -> None: ...
