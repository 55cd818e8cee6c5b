"""Heads: what stands between the encoder's features h and the embedding z that the loss sees."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.registry import register

__all__ = ["LinearHead", "MLPHead", "NoHead"]


@register("head", "none")
class NoHead(nn.Module):
    """No head: z = h. The loss then shapes the features themselves.

    Args:
        in_features: width of h.
    """

    def __init__(self, in_features: int, /) -> None:
        super().__init__()
        self.out_features = in_features

    def forward(self, h: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
        return h


@register("head", "linear")
class LinearHead(nn.Module):
    """One linear layer: z = W h + b.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, section 4.2.

    Args:
        in_features: width of h.
        embedding_dim: dimensions of z.
        bias: whether there is a b.
    """

    def __init__(self, in_features: int, /, *, embedding_dim: Annotated[int, Ge(1)] = 128, bias: bool = True) -> None:
        super().__init__()
        self.out_features = embedding_dim
        self.layer = nn.Linear(in_features, embedding_dim, bias=bias)

    def forward(self, h: Float[Tensor, "n features"]) -> Float[Tensor, "n d"]:
        return self.layer(h)  # type: ignore[no-any-return]


@register("head", "mlp")
class MLPHead(nn.Module):
    """A small network with ReLU between its layers: z = W2 relu(W1 h) in the paper, with `hidden` 2048 for ResNet-50.

    With one layer it is a linear head. A layer that BatchNorm follows has no bias, as the shift would undo it.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, section 4.2.

    Args:
        in_features: width of h.
        embedding_dim: dimensions of z.
        hidden: width between the layers.
        layers: number of linear layers.
        batch_norm: BatchNorm after each hidden layer, before its ReLU.
        final_batch_norm: BatchNorm on z, without learnable scale and shift.
    """

    def __init__(
        self,
        in_features: int,
        /,
        *,
        embedding_dim: Annotated[int, Ge(1)] = 128,
        hidden: Annotated[int, Ge(1)] = 512,
        layers: Literal[1, 2, 3] = 2,
        batch_norm: bool = True,
        final_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.out_features = embedding_dim
        widths = [in_features] + [hidden] * (layers - 1)
        parts: list[nn.Module] = []
        for before, after in pairwise(widths):
            parts.append(nn.Linear(before, after, bias=not batch_norm))
            if batch_norm:
                parts.append(nn.BatchNorm1d(after))
            parts.append(nn.ReLU(inplace=True))
        parts.append(nn.Linear(widths[-1], embedding_dim, bias=not final_batch_norm))
        if final_batch_norm:
            parts.append(nn.BatchNorm1d(embedding_dim, affine=False))
        self.layers = nn.Sequential(*parts)

    def forward(self, h: Float[Tensor, "n features"]) -> Float[Tensor, "n d"]:
        return self.layers(h)  # type: ignore[no-any-return]
