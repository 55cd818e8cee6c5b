"""Random colours: brightness, contrast, saturation and hue, each sample in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metriclab.views import device

JITTER_COLUMNS = 9
"""Uniform numbers a sample: whether at all, four places in the order, four amounts."""

CHANGE, TURN = 0.8, 0.2
"""At strength 1: how far from 1 the factors of brightness, contrast and saturation are at most, and the hue's turn."""


class Colours(NamedTuple):
    """What happens to the colours of n samples: some blends, a turn of the hue, more blends.

    A blend makes each sample a sum of itself, its gray image and its mean gray, each times a number of the sample's
    own: f, 0, 0 changes brightness, f, 0, 1 - f contrast, f, 1 - f, 0 saturation; 1, 0, 0 changes nothing.

    Attributes:
        before: the blends before the hue.
        hue: none or one, in turns.
        after: the blends after the hue.
    """

    before: Float[Tensor, "n _k 3"]
    hue: Float[Tensor, "n _t"]
    after: Float[Tensor, "n _l 3"]


Strengths = tuple[float, float, float, float]
"""Of brightness, contrast, saturation and hue."""


def jitter_strengths(colour: float | Sequence[float]) -> Strengths:
    """Of one strength for all four, or of the largest changes of brightness, contrast, saturation and hue."""
    if isinstance(colour, float | int):
        return (colour,) * 4
    brightness, contrast, saturation, hue = colour
    return brightness / CHANGE, contrast / CHANGE, saturation / CHANGE, hue / TURN


def random_jitter(uniform: Float[Tensor, "n 9"], strengths: Strengths, probability: float, channels: int) -> Colours:
    """Brightness, contrast and saturation within 0.8 x strength of 1, a hue within 0.2 x strength of a turn.

    Each sample has an order of its own. Hue is by far the dearest of the four, so it is computed once, for all samples
    together: a sample whose hue comes third has two blends before it and one after it, and idles in the other blends.
    Images of other than three channels have neither saturation nor hue.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, appendix A.

    Args:
        uniform: in [0, 1): whether at all; places of brightness, contrast, saturation, hue; their amounts.
        strengths: 1 each in the paper.
        probability: of any change at all.
        channels: of the images.
    """
    applied, places, amounts, turn = torch.split(uniform, [1, 4, 3, 1], 1)
    bounds = [(max(0.0, 1 - CHANGE * strength), 1 + CHANGE * strength) for strength in strengths[:3]]
    changes = [low + (high - low) * amount for (low, high), amount in zip(bounds, amounts.unbind(1), strict=True)]
    chosen = applied < probability
    factors = torch.where(chosen, torch.stack(changes, 1), 1.0)
    # One row an operation, in the order of their names; then in the order of the sample.
    blends = torch.stack([factors, torch.zeros_like(factors), torch.zeros_like(factors)], 2)
    blends[:, 1, 2] = 1 - factors[:, 1]
    blends[:, 2, 1] = 1 - factors[:, 2]
    count = 3 if channels == 3 else 2
    order = places[:, :count].argsort(1)
    blends = blends.gather(1, order[:, :, None].expand(-1, -1, 3))
    if channels != 3:
        return Colours(blends, turn[:, :0], blends[:, :0])
    nothing = torch.zeros_like(blends)
    nothing[..., 0] = 1
    first = (places.gather(1, order) < places[:, 3:])[:, :, None]
    hue = torch.where(chosen, (2 * turn - 1) * TURN * strengths[3], 0.0)
    return Colours(torch.where(first, blends, nothing), hue, torch.where(first, nothing, blends))


def no_colours(n: int, place: torch.device) -> Colours:
    """Nothing happens to any of n samples."""
    blends = torch.empty(n, 0, 3, device=place)
    return Colours(blends, torch.empty(n, 0, device=place), blends)


def grayscale(chosen: Bool[Tensor, "n"]) -> Float[Tensor, "n 1 3"]:
    """The blend that takes the colour out of the chosen samples."""
    share = chosen.float()
    return torch.stack([1 - share, share, torch.zeros_like(share)], 1)[:, None]


def recolour_(x: Float[Tensor, "n c h w"], colours: Colours) -> Float[Tensor, "n c h w"]:
    """Changes the colours in place, clamped to [0, 1] after each operation."""
    for blend in colours.before.unbind(1):
        blend_(x, blend)
    for turns in colours.hue.unbind(1):
        device.change_(x, turn_hue_, turns, lambda turns: turns != 0)
    for blend in colours.after.unbind(1):
        blend_(x, blend)
    return x


def blend_(x: Float[Tensor, "n c h w"], blend: Float[Tensor, "n 3"]) -> None:
    """Blends each sample with its gray image and its mean gray, in place."""
    device.change_(x, _blend_, blend, _changing)


def _changing(blends: Float[Tensor, "*n 3"]) -> Bool[Tensor, "*n"]:
    """Which blends are not 1, 0, 0."""
    return (blends[..., 0] != 1) | (blends[..., 1] != 0) | (blends[..., 2] != 0)


def _blend_(x: Float[Tensor, "n c h w"], blend: Float[Tensor, "n 3"]) -> Float[Tensor, "n c h w"]:
    image, luma, mean = blend[:, :, None, None, None].unbind(1)
    grays = gray(x)
    shift = mean * grays.mean((1, 2, 3), keepdim=True)
    if x.shape[1] == 3:
        shift = grays.mul_(luma).add_(shift)
    return x.mul_(image).add_(shift).clamp_(0, 1)


def gray(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """Luma by ITU-R BT.601; of other than three channels the mean."""
    if x.shape[1] != 3:
        return x if x.shape[1] == 1 else x.mean(1, keepdim=True)
    return (x[:, :1] * 0.2989).add_(x[:, 1:2], alpha=0.587).add_(x[:, 2:], alpha=0.114)


def turn_hue_(x: Float[Tensor, "n 3 h w"], turns: Float[Tensor, "n"]) -> Float[Tensor, "n 3 h w"]:
    """Turns the hue of the HSV hexcone, in place; value and saturation stay.

    With M the largest, m the smallest channel and C = M - m, the way from red is a = 1 + (g + b - r - m) / C sixths of
    a turn, to the side of green where g > b, else to that of blue. A channel k sixths away from its own pure hue is
    m + C clamp(2 - k, 0, 1). No branches, so every step is one vector operation.

    Paper: Smith, Color Gamut Transform Pairs, SIGGRAPH 1978.
    """
    red, green, blue = x.unbind(1)
    high, low = x.amax(1), x.amin(1)
    chroma = (high - low).add_(1e-8)  # a gray pixel has no hue: any will do
    way = (green - red).add_(blue).sub_(low).div_(chroma).add_(1).mul_(1 / 6)
    # One turn more keeps the sum positive, where the fraction is the remainder. Buffers are used again: to fetch fresh
    # memory costs more than most of these operations.
    step = green - blue
    hue = way.copysign_(step).add_((turns + 1)[:, None, None]).frac_()
    chroma.mul_(6)
    for channel, middle in enumerate((1 / 2, 1 / 3, 2 / 3)):
        # Sixths beyond the first on the way from `middle`: there red is lowest, green and blue are highest.
        torch.sub(hue, middle, out=step).abs_().sub_(1 / 6).clamp_(0, 1 / 6).mul_(chroma)
        torch.add(low, step, out=x[:, channel]) if channel == 0 else torch.sub(high, step, out=x[:, channel])
    return x.clamp_(0, 1)
