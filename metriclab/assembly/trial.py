"""What is tried before the first step, so that what cannot train is found before all else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.hooks import RemovableHandle

from metriclab.core.network import embedding_function
from metriclab.core.promises import check_features, check_views
from metriclab.core.protocols import Dataset, Views
from metriclab.core.random import RandomKeys
from metriclab.errors import RecipeError
from metriclab.recipe import Recipe
from metriclab.registry.toml import toml_value

LARGE = 256
"""Pixels of a side that are enough for any encoder which takes more than one size."""


@torch.no_grad()
def try_one_image(recipe: Recipe, method: nn.Module, views: Views, data: Dataset, device: torch.device) -> None:
    """Sends one image all the way through, in every size, so that those that do not fit are found before all else.

    Raises:
        RecipeError: where the network cannot take what the views make.
        PluginError: where a plugin's views, encoder or head give what those of its kind may not.
    """
    image, zero = data.images(np.arange(1)).to(device), torch.zeros(1, dtype=torch.int64, device=device)
    if image.are_features:
        _require_features(recipe, method, views, image.pixels.shape[1])
    else:
        _require_colour(recipe, views, image.pixels.shape[1])
    made, test = views(image, RandomKeys(0, 0, zero, zero)), views.test(image)
    recipe.components["views"].definition.hold(check_views, views, image, made, test)
    hooks = [_hold_to_width(recipe, method, kind) for kind in ("encoder", "head")]
    for view in {view.shape: view for view in (test, *made)}.values():
        try:
            embedding_function(method.eval())(view)
        except torch.OutOfMemoryError as error:
            raise RecipeError(
                f"one image does not fit the memory of the device beside the encoder: {str(error).splitlines()[0]}",
                help='choose a smaller encoder, or train.device = "cpu"; or is the device in use by another process?',
            ) from error
        except (RuntimeError, AssertionError) as error:  # timm asserts what sizes fit
            size = f"{view.shape[2]} x {view.shape[3]} pixels"
            if takes_large_images(method, view):
                help = "set a larger size in [views]"
                raise RecipeError(f"the encoder cannot take images of {size}: {error}", help=help) from error
            raise RecipeError(
                f"the encoder fails on an image of {size}, and on larger ones: {error}",
                help="if it was built for one size, set that in [views]; if not, the fault is the encoder's",
            ) from error
    for hook in hooks:
        hook.remove()
    method.train()


def _require_colour(recipe: Recipe, views: Views, channels: int) -> None:
    """Raises a RecipeError where views need red, green and blue and the images have other channels."""
    needs: Mapping[str, object] = getattr(views, "needs_colour", {})
    if needs and channels not in (1, 3):
        keys = " and ".join(f"views.{key}" for key in needs)
        raise RecipeError(
            f"views '{recipe.components['views'].name}' need red, green and blue for {keys}, and the images have "
            f"{channels} channels",
            help="set " + " and ".join(f"views.{key} = {toml_value(value)}" for key, value in needs.items()),
        )


def _require_features(recipe: Recipe, method: nn.Module, views: Views, number: int) -> None:
    """Raises a RecipeError unless everything goes without images."""
    has = f"and data set '{recipe.components['dataset'].name}' has features in place of images"
    if not getattr(method.get_submodule("network.encoder"), "takes_features", False):
        raise RecipeError(
            f"encoder '{recipe.components['encoder'].name}' takes images, {has}",
            help=f'set encoder.name = "features" and encoder.out_features = {number}, and leave out its other keys',
        )
    if not getattr(views, "takes_features", False):
        raise RecipeError(
            f"views '{recipe.components['views'].name}' are made of images, {has}",
            help='leave out [views], or set views.name = "plain"',
        )
    for chosen in recipe.evaluators:
        if getattr(chosen.definition.factory, "wants", "rows") == "encoder":
            raise RecipeError(f"evaluator '{chosen.label}' measures by images, {has}", help="leave it out")


def _hold_to_width(recipe: Recipe, method: nn.Module, kind: str) -> RemovableHandle:
    """Checks what a part of the network gives whenever it is called."""

    def look(module: nn.Module, given: tuple[Tensor, ...], features: Tensor) -> None:
        recipe.components[kind].definition.hold(check_features, module, features, len(given[0]), "for one image")

    return method.get_submodule(f"network.{kind}").register_forward_hook(look)


def takes_large_images(method: nn.Module, view: Float[Tensor, "1 c h w"]) -> bool:
    """Whether an image fails for its size alone."""
    try:
        embedding_function(method)(interpolate(view, size=(LARGE, LARGE)))
    except (RuntimeError, AssertionError):
        return False
    return True


def require_finite(method: nn.Module, recipe: Recipe) -> None:
    """Checks the weights that training starts from: nothing later could tell them from a learning rate too high.

    Raises:
        RecipeError: where one is not finite, naming it and where it comes from.
    """
    named = [*method.named_parameters(), *method.get_submodule("network").named_buffers(prefix="network")]
    floats = [(name, tensor) for name, tensor in named if tensor.is_floating_point()]
    finite = torch.stack([tensor.isfinite().all() for _, tensor in floats]).tolist() if floats else []
    broken = [name for (name, _), fine in zip(floats, finite, strict=True) if not fine]
    if not broken:
        return
    source = next((key for key in ("weights", "pretrained") if recipe.components["encoder"].params.get(key)), None)
    ours = source if source is not None and broken[0].startswith("network.encoder.") else None
    raise RecipeError(
        f"{len(broken)} of {len(floats)} tensors hold NaN or infinity before the first step: {', '.join(broken[:3])}",
        help=f"encoder.{ours} brings them: choose weights of a training that has not diverged"
        if ours
        else "the component that makes them starts them so: report it to its author",
    )
