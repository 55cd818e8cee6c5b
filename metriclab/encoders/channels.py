"""Images and numbers of as many channels as an encoder takes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from metriclab.errors import RecipeError


def match_channels(images: Float[Tensor, "n c h w"], in_chans: int) -> Float[Tensor, "n {in_chans} h w"]:
    """The images with as many channels as the encoder takes: a single channel is repeated.

    Args:
        images: of 1 or `in_chans` channels.
        in_chans: what the encoder takes.

    Raises:
        RecipeError: for any other number of channels, as leaving colour out is the user's choice to make.
    """
    channels = images.shape[1]
    if channels == in_chans:
        return images
    if channels == 1:
        return images.expand(-1, in_chans, -1, -1)
    raise RecipeError(
        f"the images have {channels} channels and the encoder takes {in_chans}",
        help=f"set encoder.in_chans = {channels}",
    )


def per_channel(values: tuple[float, ...], in_chans: int) -> Float[Tensor, "{in_chans} 1 1"]:
    """One value a channel; where the weights knew other channels, the mean of theirs."""
    known = torch.tensor(values)
    return (known if len(known) == in_chans else known.mean().expand(in_chans).clone()).view(-1, 1, 1)
