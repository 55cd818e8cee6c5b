"""Views by the transforms of torchvision."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, MinLen, doc
from jaxtyping import Float, UInt8
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.core.settings import keep_settings, repr_settings
from metriclab.errors import RecipeError
from metriclab.registry import CheckedBy, OwnKeys, register
from metriclab.views.augmentation import ViewSize
from metriclab.views.geometry import Fit, central_view
from metriclab.views.second import require_two_views
from metriclab.views.torchvision_transforms import LIBRARY, make, problems

Transforms = Annotated[
    list[dict[str, object]],
    MinLen(1),
    CheckedBy(problems),
    doc('list of transforms, such as [{ name = "ColorJitter", brightness = 0.4 }]'),
]

_STREAM = 0
_TRIED = ((37, 53), (48, 40))
"""Heights and widths of the images that transforms are tried on: of two aspects, smaller and larger than many views."""


@register("views", "torchvision")
class TorchvisionViews:
    """Any transforms of torchvision.transforms.v2, one after the other, image by image.

    They take uint8 images of their true size and have to give all of them one size, as RandomResizedCrop does, and
    Resize with two numbers. Transforms draw from torch's generator, which is seeded for each image and view by itself
    and put back afterwards: views depend on an image's random keys alone, as those of `simclr` do, and a run resumes.

    They run on the CPU, one image at a time: several times slower than `simclr`, `retrieval` and `randaugment`, which
    are preferable where they have what is needed.

    Args:
        transforms: in the order in which they are applied, each a table of its name there and its parameters: [{ name =
            "RandomResizedCrop", size = 224, scale = [0.2, 1.0] }, { name = "ColorJitter", brightness = 0.4 }]. Those
            that hold others (RandomApply, RandomChoice, RandomOrder, Compose) have such a list in their turn. Mean and
            standard deviation belong to the encoder.
        count: number of training views of an image.
        size: of the test view, in pixels; that of the training views if not set.
        second: keys of this table that the second view has other values of: {transforms = [...]}; a third view is as
            the table says.
        fit: how the test view takes an image of another aspect: the middle of it (crop), all of it between black bars
            (pad), or all of it, scaled in both directions (squash).

    Raises:
        RecipeError: where the transforms refuse an image, give images of several sizes, or values outside of [0, 1];
            and for `second` where there is one view.

    Example:
        >>> views = TorchvisionViews(transforms=[{"name": "RandomResizedCrop", "size": 32}])
    """

    __repr__ = repr_settings

    def __init__(
        self,
        *,
        transforms: Transforms,
        count: Annotated[int, Ge(1)] = 2,
        size: ViewSize | None = None,
        second: Annotated[dict[str, object], OwnKeys(("transforms",))] = {},  # noqa: B006  (a plain default)
        fit: Fit = "crop",
    ) -> None:
        keep_settings(self, locals())
        chains = dict.fromkeys(range(count), _Chain("views.transforms", transforms))
        if second:
            require_two_views("torchvision", count)
            chains[1] = _Chain("views.second.transforms", second["transforms"])
        self.count = count
        self.fit: Fit = fit
        self.chains = chains
        self.size = size or chains[0].size

    @torch.no_grad()
    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Float[Tensor, "n c _h _w"], ...]:
        return tuple(_views(chain, images, random_keys, view) for view, chain in self.chains.items())

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The whole image or its middle, as `fit` says, without chance."""
        return central_view(images, self.size, self.fit)


class _Chain:
    """Transforms one after the other.

    Attributes:
        size: height and width of what they give.
    """

    def __init__(self, place: str, tables: Any) -> None:
        self.place = place
        self.steps = [(f"{place}[{index}], {table['name']}", make(table)) for index, table in enumerate(tables)]
        self.size = self._try_out()

    def __call__(self, image: UInt8[Tensor, "c h w"]) -> Float[Tensor, "_c _h _w"]:
        for place, step in self.steps:
            try:
                image = step(image)
            except Exception as error:  # of whatever type the library chose
                what = f"{image.dtype} of shape {tuple(image.shape)}"
                raise RecipeError(f"{place} of {LIBRARY} refuses an image, {what}: {error}") from error
        return image if image.is_floating_point() else image.float() / torch.iinfo(image.dtype).max

    def _try_out(self) -> tuple[int, int]:
        found: set[tuple[int, ...]] = set()
        with _Seeds() as seeds:
            for seed, (height, width) in enumerate(_TRIED):
                seeds.set(seed)
                view = self(torch.full((3, height, width), 255, dtype=torch.uint8))
                found.add(tuple(view.shape[1:]))
                if view.max() > 1 or view.min() < 0:
                    raise RecipeError(
                        f"{self.place} give values from {view.min():.3g} to {view.max():.3g}, and views are in [0, 1]",
                        help="where a dtype is changed, set scale = true",
                    )
        if len(found) > 1:
            sizes = " and ".join(f"{list(size)}" for size in sorted(found))
            raise RecipeError(
                f"{self.place} give images of several sizes, such as {sizes}",
                help='have one that gives one size: { name = "RandomResizedCrop", size = 224 }, or '
                '{ name = "Resize", size = [224, 224] }',
            )
        height, width = found.pop()
        return height, width


def _views(chain: _Chain, images: Images, random_keys: RandomKeys, view: int) -> Float[Tensor, "n c _h _w"]:
    """A view of each image, made on the CPU, so that it is the same whichever device the images are on."""
    pixels, sizes = images.pixels.cpu(), images.sizes.tolist()
    upper, lower = (random_keys.uniform(view, _STREAM, 2).cpu() * 2**16).long().unbind(1)
    made = torch.empty(len(images), images.pixels.shape[1], *chain.size)
    with _Seeds() as seeds:
        for image, row, (height, width), seed in zip(pixels, made, sizes, (upper << 16 | lower).tolist(), strict=True):
            seeds.set(seed)
            result = chain(image[:, :height, :width])
            if result.shape != row.shape:
                raise RecipeError(
                    f"{chain.place} make {list(result.shape)} of an image of {[len(image), height, width]}, where "
                    f"views are {list(row.shape)}",
                    help="have transforms that give all images one size, and leave their channels as they are",
                )
            torch.clamp(result, 0, 1, out=row)
    return made.to(images.pixels.device)


class _Seeds:
    """Seeds of torch's generator of the CPU, and its state as it was when the block is left."""

    def __enter__(self) -> _Seeds:
        self.state = torch.default_generator.get_state()
        return self

    def set(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed those of GPUs as well

    def __exit__(self, *_: object) -> None:
        torch.default_generator.set_state(self.state)
