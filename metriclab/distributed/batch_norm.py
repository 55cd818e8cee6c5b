"""Batch normalisation over all ranks, on CPU too, exact when ranks hold different numbers of rows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.distributed.collectives import total_with_gradient


class SynchronizedBatchNorm(nn.Module):
    """A BatchNorm whose statistics are those of the rows of all ranks together (Ioffe & Szegedy 2015, algorithm 1).

    Takes over the parameters and buffers of the layer it stands for under the same names, so that checkpoints do not
    depend on the number of ranks. In evaluation, or in one process, it computes what that layer computes.

    Args:
        layer: BatchNorm of any dimension; timm's, with its dropout and activation behind it, included.
    """

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))
        self.eps, self.momentum = layer.eps, layer.momentum
        # timm folds these two into its BatchNormAct2d.
        self.drop = getattr(layer, "drop", None) or nn.Identity()
        self.act = getattr(layer, "act", None) or nn.Identity()
        self.train(layer.training)

    def forward(self, x: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        if self.training:
            mean, variance = self._batch_statistics(x)
        elif self.running_mean is None:  # of these rows alone: ranks may evaluate different numbers of batches
            rows = _rows(x)
            mean, variance = rows.mean(1), rows.var(1, correction=0)
        else:
            assert self.running_var is not None
            mean, variance = self.running_mean, self.running_var
        shape = (1, -1, *([1] * (x.dim() - 2)))
        scale = torch.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        y = (x * scale.view(shape) + shift.view(shape)).to(x.dtype)  # half precision is scaled in float32
        return self.act(self.drop(y))  # type: ignore[no-any-return]

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Two passes, as a one-pass variance loses all digits where the mean is large. Half precision sums in float32.
        rows = _rows(x)
        sums = total_with_gradient(torch.cat([rows.sum(1), rows.new_tensor([float(rows.shape[1])])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        variance = total_with_gradient((rows - mean[:, None]).square().sum(1)) / count
        if self.running_mean is not None:
            self._update(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        return mean, variance

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def _rows(x: Float[Tensor, "n c ..."]) -> Float[Tensor, "c m"]:
    """All numbers of each channel; half precision becomes float32."""
    rows = x.transpose(0, 1).flatten(1)
    return rows if rows.dtype == torch.float64 else rows.float()


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm inside it synchronised; other layers are left as they are."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return SynchronizedBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronize_batch_norm(child))
    return module
