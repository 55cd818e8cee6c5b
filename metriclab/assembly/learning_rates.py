"""What an optimizer is built of, and learning rates that depend on the batch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer


def optimized_modules(method: nn.Module) -> Mapping[str, nn.Module]:
    """The parts whose learning rates a recipe can tell apart; a parameter belongs to the first that has it."""
    network = method.get_submodule("network")
    others = {name: child for name, child in method.named_children() if child is not network}
    return {
        "encoder": network.get_submodule("encoder"),
        "head": network.get_submodule("head"),
        **others,
        "method": method,
    }


def scale_learning_rate(optimizer: Optimizer, rule: str, batch_size: int) -> None:
    """Chen et al. 2020, appendix B.1: lr x B / 256 ("linear") or lr x sqrt(B) ("sqrt")."""
    factor = {"none": 1.0, "linear": batch_size / 256, "sqrt": batch_size**0.5}[rule]
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] = group["lr"] * factor
