"""Batches of any size in the memory of a chunk: gradient caching.

The loss needs the embeddings of the whole batch at once, but the network does not: each embedding depends on its own
image alone. So the batch is embedded chunk by chunk without a graph, the loss gives the gradient of every embedding,
and a second pass, chunk by chunk, takes each to the parameters. The sum is the gradient of the whole batch, exactly.

Paper: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021,
arXiv 2101.06983, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.core.protocols import Objective
from metriclab.distributed.batch_norm import SynchronizedBatchNorm
from metriclab.training.batches import RankBatch
from metriclab.training.objective import differentiate


def step_in_chunks(
    method: Any, rank_batch: RankBatch, chunk: int, forward: Callable[[int, int, int], Any], reseed: Callable[[], None]
) -> tuple[Objective, Any]:
    """One step's objective and the outputs of all ranks; gradients are left in the parameters.

    Layers with batch statistics, BatchNorm, take them of each chunk, which is another network than on the whole batch;
    running statistics move in the first pass alone. Random layers draw alike in both passes.

    Args:
        method: of the method protocol.
        rank_batch: this rank's images.
        chunk: most images that are embedded at a time.
        forward: (index of the chunk, start, stop) -> the method's outputs of these images; equal outputs each time.
        reseed: called before the objective, so that its draws do not depend on the chunks.
    """
    parts = list(_parts(rank_batch, chunk))
    with torch.no_grad():
        cached = [forward(*part) for part in parts]
    local = distributed.map_tensors(_leaf, joined(cached))
    reseed()
    world = distributed.gather(local)
    objective = differentiate(method, local, world)
    gradients = [leaf.grad for leaf in _tensors(local)]
    done = [0] * len(gradients)
    with _passing_again(method):
        for part in parts:
            outputs = list(_tensors(forward(*part)))
            ends = [start + len(output) for start, output in zip(done, outputs, strict=True)]
            asked = [
                (output, gradient[start:end])
                for output, gradient, start, end in zip(outputs, gradients, done, ends, strict=True)
                if output.requires_grad and gradient is not None
            ]
            if asked:
                torch.autograd.backward([output for output, _ in asked], [gradient for _, gradient in asked])
            done = ends
    return objective, world


def recomputing(method: nn.Module) -> AbstractContextManager[None]:
    """For a backward in which gradient checkpointing passes images through the encoder again, where it does."""
    again = getattr(method.get_submodule("network.encoder"), "recomputes", False)
    return _passing_again(method) if again else nullcontext()


@contextmanager
def _passing_again(method: nn.Module) -> Iterator[None]:
    """Images that have moved the running statistics once pass through a network again, and do not move them."""
    kept = [(buffer, buffer.clone()) for buffer in _moving_buffers(method)]
    yield
    for buffer, value in kept:
        buffer.copy_(value)


def batch_statistics(training: Training) -> str | None:
    """What chunks mean for layers that mix the images of a batch, in words; None where there are none, or no chunks."""
    chunk, sampler = training.settings.chunk, training.sampler
    layers = (nn.modules.batchnorm._BatchNorm, SynchronizedBatchNorm)
    mixing = any(isinstance(module, layers) and module.training for module in training.method.modules())
    if chunk is None or sampler is None or chunk >= sampler.batch_size / distributed.world_size() or not mixing:
        return None
    return (
        f"BatchNorm takes its statistics of each chunk of {chunk} images, not of the batch; with "
        "encoder.freeze_batch_norm, or a network without BatchNorm, the gradient is that of the whole batch"
    )


def _parts(rank_batch: RankBatch, chunk: int) -> Iterator[tuple[int, int, int]]:
    # As many on every rank, as layers and losses may meet there.
    count = -(-rank_batch.largest // chunk)
    edges = [len(rank_batch) * i // count for i in range(count + 1)]
    return ((i, edges[i], edges[i + 1]) for i in range(count))


def _moving_buffers(method: nn.Module) -> Iterator[Tensor]:
    """What a forward pass may move: running statistics, and not the memory, which may be large."""
    return (buffer for name, buffer in method.named_buffers() if not name.startswith("memory."))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def joined(outputs: list[Any]) -> Any:
    """The outputs of all chunks as those of one batch."""
    columns = zip(*(list(_tensors(one)) for one in outputs), strict=True)
    columns_joined = iter([torch.cat(column) for column in columns])
    return distributed.map_tensors(lambda _: next(columns_joined), outputs[0])


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of a method's outputs, always in the same order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    distributed.map_tensors(note, tree)
    return iter(found)
