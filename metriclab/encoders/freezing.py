"""The blocks of a timm model, and which of its parameters and layers are frozen at a step of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, doc
from pydantic import StringConstraints
from timm.layers.norm import RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from timm.models import group_parameters
from torch import nn

from metriclab.core.parameter_groups import NORMS
from metriclab.distributed.batch_norm import SynchronizedBatchNorm
from metriclab.errors import RecipeError
from metriclab.registry import RunStep, TrueWith

_LAST = "last:"
Trainable = (
    Literal["all", "none", "norms"] | Annotated[str, StringConstraints(pattern=rf"^{_LAST}[1-9]\d*$"), doc('"last:N"')]
)
FreezeBatchNorm = Annotated[bool | None, TrueWith(("pretrained", "weights"))]
UnfreezeAt = Annotated[Annotated[int, Ge(1)] | None, RunStep("the rest of the encoder never trains")]

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, SynchronizedBatchNorm)
_NORMS = (*NORMS, RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d)
_BEHIND = {"behind": [("", (99999,))]}
"""Whatever else a model has, as timm's matchers say it: it belongs to the block before it, as most final norms do."""


class Freezing:
    """What of a timm model trains, and from which step on.

    Args:
        network: of timm.
        model: its name.
        trainable: "all", "none", "norms" or "last:N".
        unfreeze_at: step from which on all train; never, where it is None.
        frozen_mode: "eval" or "train": that of blocks of which none trains.
        batch_norm: whether BatchNorm keeps its statistics, and, but for "norms", its scale and shift.

    Raises:
        RecipeError: where the model has not what is to be trained, or nothing is left to unfreeze.
    """

    def __init__(
        self,
        network: nn.Module,
        model: str,
        *,
        trainable: str,
        unfreeze_at: int | None,
        frozen_mode: Literal["eval", "train"],
        batch_norm: bool,
    ) -> None:
        if unfreeze_at is not None and trainable == "all":
            raise RecipeError(
                f'encoder.unfreeze_at = {unfreeze_at} has nothing to unfreeze: encoder.trainable = "all"',
                help='set encoder.trainable = "none", "norms" or "last:N" for the steps before it, or leave it out',
            )
        self.network, self.unfreeze_at, self.batch_norm = network, unfreeze_at, batch_norm
        self.at_first = frozen_parameters(network, model, trainable)
        self.stand_still = trainable != "norms" and frozen_mode == "eval"
        layers = {name for name, layer in network.named_modules() if isinstance(layer, _BATCH_NORMS)}
        names = [name for name, _ in network.named_parameters()] if batch_norm and trainable != "norms" else []
        self.always = {name for name in names if _layer(name) in layers}
        self.begun: bool | None = None

    def apply(self, step: int) -> bool:
        """Freezes what is frozen at a step, and says whether that is other than before."""
        before, self.begun = self.begun, self.unfreeze_at is None or step < self.unfreeze_at
        if self.begun == before:
            return False
        frozen = self.always | (self.at_first if self.begun else set())
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name not in frozen)
        return True

    def evaluate(self) -> None:
        """Puts what stands still into evaluation mode."""
        if self.stand_still and self.begun:
            for name in _modules_of(self.network, self.at_first):
                self.network.get_submodule(name).eval()
        if self.batch_norm:
            for layer in self._batch_norms():
                layer.eval()

    def keeps_statistics(self) -> bool:
        """Whether there are statistics of BatchNorm, and they stay."""
        return self.batch_norm and any(True for _ in self._batch_norms())

    def _batch_norms(self) -> Iterator[nn.Module]:
        return (layer for layer in self.network.modules() if isinstance(layer, _BATCH_NORMS))


def blocks_of(network: Any, model: str, key: str) -> list[list[str]]:
    """Names of parameters by block from the image on, the stem first, as timm's `group_matcher` counts them.

    What stands behind the last block, such as a norm of its output, is of that block.

    Args:
        network: of timm.
        model: its name.
        key: what asks for them, as it stands in the recipe.

    Raises:
        RecipeError: for a model that has no such matcher.
    """
    if not hasattr(network, "group_matcher"):
        raise RecipeError(
            f"{key} counts blocks by timm's group_matcher, and '{model}' has none",
            help="leave it out, or name another model",
        )
    numbered = group_parameters(network, {**network.group_matcher(coarse=False), **_BEHIND})
    return [numbered[number] for number in sorted(numbered)]


def frozen_parameters(network: nn.Module, model: str, trainable: str) -> set[str]:
    """Names of the parameters that a value of `trainable` freezes.

    Raises:
        RecipeError: where the model has not what is to be trained.
    """
    names, setting = {name for name, _ in network.named_parameters()}, f'encoder.trainable = "{trainable}"'
    if trainable in ("all", "none"):
        return names if trainable == "none" else set()
    if trainable == "norms":
        norms = {name for name, layer in network.named_modules() if isinstance(layer, _NORMS)}
        if not any(_layer(name) in norms for name in names):
            raise RecipeError(
                f"{setting} leaves nothing to train: the norms of '{model}' have no scale and no shift",
                help='set encoder.trainable = "all", "none" or "last:N"',
            )
        return {name for name in names if _layer(name) not in norms}
    blocks, count = blocks_of(network, model, setting), int(trainable.removeprefix(_LAST))
    if count > len(blocks):
        raise RecipeError(
            f"{setting}: '{model}' has {len(blocks)} blocks, the stem included",
            help=f'set encoder.trainable = "all", or "{_LAST}N" with a smaller N',
        )
    return {name for block in blocks[:-count] for name in block}


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _modules_of(module: nn.Module, parameters: set[str], prefix: str = "") -> Iterator[str]:
    """Names of the outermost modules that have no parameters but these."""
    names = [f"{prefix}{name}" for name, _ in module.named_parameters()]
    if names and parameters.issuperset(names):
        yield prefix.removesuffix(".")
        return
    for name, child in module.named_children():
        yield from _modules_of(child, parameters, f"{prefix}{name}.")
