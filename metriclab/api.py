"""The public surface. What is not here is private and may change without notice."""

from metriclab.assembly.embedder import Embedder, load
from metriclab.core.apply_loss import apply_loss, takes_miner
from metriclab.core.batch import Batch, Images
from metriclab.core.network import Embedded, Network
from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs, all_pairs
from metriclab.core.protocols import EvaluatedEncoder, Loss, Memory, Miner, Objective, Score
from metriclab.core.random import RandomKeys
from metriclab.core.rows import Keys, Rows, concatenate, rows
from metriclab.distributed import average_gradients, gather, process_group
from metriclab.errors import DataError, DivergedError, MetriclabError, PluginError, RecipeError, StorageError
from metriclab.registry import build, register
from metriclab.registry.api_version import API_VERSION

__all__ = [
    "API_VERSION",
    "Batch",
    "DataError",
    "DivergedError",
    "Embedded",
    "Embedder",
    "EvaluatedEncoder",
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
    "RandomKeys",
    "RecipeError",
    "Rows",
    "Score",
    "StorageError",
    "Term",
    "all_pairs",
    "apply_loss",
    "average_gradients",
    "build",
    "concatenate",
    "gather",
    "load",
    "process_group",
    "register",
    "rows",
    "takes_miner",
]
