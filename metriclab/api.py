"""The public surface. What is not here is private and may change without notice."""

from metriclab.core.apply_loss import apply_loss, takes_miner
from metriclab.core.batch import Batch, Images
from metriclab.core.distributed import average_gradients, gather, process_group
from metriclab.core.errors import DataError, DivergedError, MetriclabError, PluginError, RecipeError, StorageError
from metriclab.core.network import Embedded, Network
from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs, compare
from metriclab.core.protocols import Loss, Memory, Miner, Objective, Score, Subject
from metriclab.core.random import Draws
from metriclab.core.rows import Keys, Rows, concatenate, rows
from metriclab.registry import build, register
from metriclab.registry.api_version import API_VERSION
from metriclab.run.load import Embedder, load

__all__ = [
    "API_VERSION",
    "Batch",
    "DataError",
    "DivergedError",
    "Draws",
    "Embedded",
    "Embedder",
    "Images",
    "Keys",
    "Loss",
    "Memory",
    "MetriclabError",
    "Miner",
    "Network",
    "Objective",
    "PairLoss",
    "Pairs",
    "PluginError",
    "RecipeError",
    "Rows",
    "Score",
    "StorageError",
    "Subject",
    "Term",
    "apply_loss",
    "average_gradients",
    "build",
    "compare",
    "concatenate",
    "gather",
    "load",
    "process_group",
    "register",
    "rows",
    "takes_miner",
]
