"""What a student learns of a teacher: how the images of a batch lie to each other, never where they are."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import kl_div, smooth_l1_loss
from torch.utils.checkpoint import checkpoint

from metriclab.api import normalize

_CELLS = 2**22
"""Cells of angles to hold at a time."""


def cosine_gap(student: Float[Tensor, "n d"], teacher: Float[Tensor, "n t"]) -> Float[Tensor, ""]:
    """The mean over pairs of images of the squared difference of their cosines; 0 for a single image."""
    gap = (student @ student.T - teacher @ teacher.T).square()
    return _mean(gap, ~torch.eye(len(gap), dtype=torch.bool, device=gap.device))


def distance_gap(student: Float[Tensor, "n d"], teacher: Float[Tensor, "n t"]) -> Float[Tensor, ""]:
    """The mean over pairs of Huber's loss of their distances, each side's as a multiple of its mean distance."""
    pairs = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    ours, theirs = (_scaled_distances(z, pairs) for z in (student, teacher))
    return _mean(smooth_l1_loss(ours, theirs, reduction="none"), pairs)


def angle_gap(student: Float[Tensor, "n d"], teacher: Float[Tensor, "n t"]) -> Float[Tensor, ""]:
    """The mean over triples of different images i, j, k of Huber's loss of the cosines of the angles at j.

    Two images in one place have no direction: the angle between them and any other has the cosine 0. O(n^3) time; some
    vertices at a time are held, and computed anew in the backward.
    """
    n = len(student)
    height = max(1, _CELLS // max(1, n * n))

    def block(start: int) -> Tensor:
        vertices = torch.arange(start, min(start + height, n), device=student.device)
        gap = smooth_l1_loss(_angles(student, vertices), _angles(teacher, vertices), reduction="none")
        places = torch.arange(n, device=student.device)
        itself = places == vertices[:, None]
        left_out = itself[:, :, None] | itself[:, None, :] | (places[:, None] == places)
        # Not by a product with the mask, so that an embedding that is not a number is seen where there is no triple.
        return torch.where(left_out, 0 * gap, gap).sum()

    parts = [checkpoint(block, s, use_reentrant=False, preserve_rng_state=False) for s in range(0, n, height)]
    return torch.stack(parts).sum() / max(1, n * (n - 1) * (n - 2))


def distribution_gap(
    student: Float[Tensor, "n m"],
    teacher: Float[Tensor, "n m"],
    used: Bool[Tensor, "n m"],
    temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, ""]:
    """The mean over images of the Kullback-Leibler divergence of the student's softmax from the teacher's.

    Args:
        student, teacher: cosines of each image with the references.
        used: which references an image has; one without any has a loss of 0.
        temperature, teacher_temperature: of the two softmaxes.
    """
    lowest = torch.finfo(student.dtype).min  # not -inf, which makes NaNs of an image without references
    ours = (student / temperature).masked_fill(~used, lowest).log_softmax(1)
    theirs = (teacher / teacher_temperature).masked_fill(~used, lowest).log_softmax(1)
    divergence = kl_div(ours, theirs, reduction="none", log_target=True)
    per_image = torch.where(used, divergence, 0 * student).sum(1)
    return per_image.sum() / used.any(1).sum().clamp(min=1)


def correlation(
    student: Float[Tensor, "n m"], teacher: Float[Tensor, "n m"], used: Bool[Tensor, "n m"]
) -> Float[Tensor, ""]:
    """Of the cosines that are used; 0 where they do not vary."""
    centred = [torch.where(used, side - _mean(side, used), 0) for side in (student, teacher)]
    first, second = centred
    scale = (first.square().sum() * second.square().sum()).sqrt()
    return (first * second).sum() / scale.clamp(min=torch.finfo(scale.dtype).tiny)


def _mean(values: Float[Tensor, "n m"], used: Bool[Tensor, "n m"]) -> Float[Tensor, ""]:
    return torch.where(used, values, 0 * values).sum() / used.sum().clamp(min=1)


def _scaled_distances(z: Float[Tensor, "n d"], pairs: Bool[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    distances = _distances(z)
    mean = _mean(distances, pairs)
    return distances / (mean + (mean == 0))  # all images in one place: nothing to scale


def _distances(z: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Of unit rows; with subgradient 0 where two coincide but for rounding."""
    squared = 2 - 2 * (z @ z.T)
    apart = ~(squared <= 16 * torch.finfo(squared.dtype).eps)
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0 * squared)


def _angles(z: Float[Tensor, "n d"], vertices: Int64[Tensor, "b"]) -> Float[Tensor, "b n n"]:
    """Cosines of the angles at the vertices between any two rows."""
    between = z[None, :, :] - z[vertices][:, None, :]
    directions = normalize(between.flatten(0, 1)).reshape(between.shape)
    return directions @ directions.transpose(1, 2)
