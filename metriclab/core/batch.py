"""What the loop hands to a method: the views of some images, and who those images are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8, UInt16
from torch import Tensor

from metriclab.core.rows import Rows, concatenate, pack_ids, rows


@dataclass(frozen=True, slots=True)
class Images:
    """Raw images of any sizes in one tensor, padded at the bottom and the right; or features in place of images.

    Attributes:
        pixels: padded images of 8 or 16 bits. Features are float32, as one pixel of so many channels.
        sizes: true height and width of each, in pixels.
    """

    pixels: UInt8[Tensor, "n c h w"] | UInt16[Tensor, "n c h w"] | Float32[Tensor, "n d 1 1"]
    sizes: Int64[Tensor, "n 2"]

    @classmethod
    def padded(cls, images: Sequence[np.ndarray]) -> Images:
        """Images of any sizes joined: uint8 or uint16 arrays of shape (c, h, w), at least one, all of as many channels.

        Raises:
            ValueError: for any others.
        """
        if not len(images):
            raise ValueError("Images.padded is given no image, and needs one at least: it would not know the channels")
        channels = images[0].shape[0] if images[0].ndim else 0
        dtype = images[0].dtype if images[0].dtype == np.uint16 else np.dtype(np.uint8)
        for place, image in enumerate(images):
            if image.dtype != dtype or image.ndim != 3 or image.shape[0] != channels or not image.size:
                raise ValueError(
                    f"image {place} for Images.padded is {image.dtype} of shape {image.shape}, expected {dtype} of "
                    f"({channels}, h, w) as the first one: scale floats in [0, 1] by 255 and cast them with "
                    "astype(np.uint8), and put channels first"
                )
        sizes = torch.tensor([image.shape[1:] for image in images], dtype=torch.int64)
        height, width = sizes.amax(0).tolist()
        pixels = np.zeros((len(images), channels, height, width), dtype=dtype)
        for row, image in enumerate(images):
            pixels[row, :, : image.shape[1], : image.shape[2]] = image
        return cls(torch.from_numpy(pixels), sizes)

    @classmethod
    def of_features(cls, features: Float[Tensor, "n d"]) -> Images:
        """Features, to be handed on as they are."""
        return cls(features.float()[:, :, None, None], torch.ones(len(features), 2, dtype=torch.int64))

    @property
    def white(self) -> int:
        """The largest value that a pixel can have: views divide by it."""
        return 65535 if self.pixels.dtype == torch.uint16 else 255

    @property
    def are_features(self) -> bool:
        """Whether these are features."""
        return self.pixels.is_floating_point() and self.pixels.shape[2:] == (1, 1)

    def for_people(self) -> Images:
        """These as grey or RGB of 8 bits, to look at: the first channels of others, 16 bits up to the largest value."""
        channels = self.pixels.shape[1]
        pixels = self.pixels[:, : 3 if channels >= 3 else 1]
        if self.white > 255:
            values = pixels.float()
            pixels = (values * (255 / values.amax((1, 2, 3), keepdim=True).clamp(min=1))).byte()
        return Images(pixels, self.sizes)

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def __getitem__(self, index: slice) -> Images:
        return Images(self.pixels[index], self.sizes[index])

    def to(self, device: torch.device) -> Images:
        return Images(self.pixels.to(device, non_blocking=True), self.sizes.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's slice of one global batch.

    Attributes:
        views: the same n images seen V times, as float in [0, 1]; views may differ in size.
        labels: classes of the images, negative for unknown.
        items: their indices in the data set.
        positions: their positions in the global batch.
        step: the step of the run, from 0.
        features: what the encoder makes of the images, for a method that trains on features; such a batch has no views.
        groups, categories: of the images, negative for unknown; None where the data set has none.
    """

    views: tuple[Float[Tensor, "n c _h _w"], ...]
    labels: Int64[Tensor, "n"]
    items: Int64[Tensor, "n"]
    positions: Int64[Tensor, "n"]
    step: int
    features: Float[Tensor, "n d"] | None = None
    groups: Int64[Tensor, "n"] | None = None
    categories: Int64[Tensor, "n"] | None = None

    def __len__(self) -> int:
        return self.items.shape[0]

    def slice(self, start: int, stop: int) -> Batch:
        """Images start..stop of this batch, in all views."""
        part = slice(start, stop)
        views = tuple(view[part] for view in self.views)
        also = (None if of is None else of[part] for of in (self.features, self.groups, self.categories))
        return Batch(views, self.labels[part], self.items[part], self.positions[part], self.step, *also)

    def rows(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        labels: Int64[Tensor, "n"],
        *,
        first_view: int = 0,
        groups: Int64[Tensor, "n"] | None = None,
    ) -> Rows:
        """Rows of several views of this batch, view by view, one raw embedding tensor a view.

        Args:
            embeddings: as many as there are views to make rows of, in the order of the views.
            labels: `batch.items` to tell images apart (self-supervised), `batch.labels` to tell classes apart.
            first_view: index of the view that the first of them embeds. Rows of one image and one view have one id, and
                no loss compares them.
            groups: `batch.groups` to have positives of other groups alone.
        """
        made = []
        for view, z in enumerate(embeddings, first_view):
            ids, views = pack_ids(self.step, self.positions, view), torch.full_like(self.items, view)
            made.append(rows(z, labels, self.items, ids, views, groups, self.categories))
        return concatenate(made)
