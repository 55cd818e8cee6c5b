"""The public surface for authors of components. What is not here, in the packages of components (`metriclab.losses`,
`metriclab.miners` and so on) or in `metriclab.testing` is private and may change without notice."""

from metriclab.assembly.embedder import Embedder, load
from metriclab.core.batch import Batch, Images
from metriclab.core.call_loss import apply_loss, call_loss, call_pair_loss, takes_miner
from metriclab.core.network import Embedded, Network
from metriclab.core.pair_loss import PairLoss, Term, stream_terms
from metriclab.core.pairs import Pairs, all_pairs
from metriclab.core.pointwise_pair_loss import LossAndGrad, PointwisePairLoss
from metriclab.core.protocols import (
    Dataset,
    EvaluatedEncoder,
    Evaluator,
    Loss,
    Memory,
    Method,
    Miner,
    Objective,
    Sampler,
    Score,
    Tracker,
    Views,
)
from metriclab.core.random import RandomKeys, pair_uniform
from metriclab.core.rows import Keys, Labels, Rows, concatenate, count_positives, normalize, rows
from metriclab.core.settings import keep_settings, repr_settings, show_settings
from metriclab.distributed import average_gradients, gather, process_group
from metriclab.errors import DataError, DivergedError, MetriclabError, PluginError, RecipeError, StorageError
from metriclab.images.boxes import Box
from metriclab.images.datasets import ArrayDataset, FileDataset, LabelledFile
from metriclab.images.sources import ImageSource
from metriclab.registry import CheckedBy, OwnKeys, RunStep, TableOf, TrueWith, build, register
from metriclab.registry.api_version import API_VERSION

__all__ = [
    "API_VERSION",
    "ArrayDataset",
    "Batch",
    "Box",
    "CheckedBy",
    "DataError",
    "Dataset",
    "DivergedError",
    "Embedded",
    "Embedder",
    "EvaluatedEncoder",
    "Evaluator",
    "FileDataset",
    "ImageSource",
    "Images",
    "Keys",
    "LabelledFile",
    "Labels",
    "Loss",
    "LossAndGrad",
    "Memory",
    "Method",
    "MetriclabError",
    "Miner",
    "Network",
    "Objective",
    "OwnKeys",
    "PairLoss",
    "Pairs",
    "PluginError",
    "PointwisePairLoss",
    "RandomKeys",
    "RecipeError",
    "Rows",
    "RunStep",
    "Sampler",
    "Score",
    "StorageError",
    "TableOf",
    "Term",
    "Tracker",
    "TrueWith",
    "Views",
    "all_pairs",
    "apply_loss",
    "average_gradients",
    "build",
    "call_loss",
    "call_pair_loss",
    "concatenate",
    "count_positives",
    "gather",
    "keep_settings",
    "load",
    "normalize",
    "pair_uniform",
    "process_group",
    "register",
    "repr_settings",
    "rows",
    "show_settings",
    "stream_terms",
    "takes_miner",
]
