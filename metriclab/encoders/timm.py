"""Any model of the timm library as an encoder."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.settings import keep_settings, show_settings
from metriclab.core.size import height_and_width, size_text
from metriclab.encoders.channels import match_channels, per_channel
from metriclab.encoders.cifar_stem import install_cifar_stem
from metriclab.encoders.freezing import FreezeBatchNorm, Freezing, Trainable, UnfreezeAt, blocks_of
from metriclab.encoders.weights import load_weights
from metriclab.errors import DataError, RecipeError
from metriclab.registry import register

Side = Annotated[int, Ge(1)]

Rate = Annotated[float, Ge(0), Lt(1)] | None

_LACKED = {
    "img_size": ("image_size", "it takes images of any size", "leave out image_size"),
    "dynamic_img_size": (
        "dynamic_image_size",
        "it takes images of any size, or of one alone",
        "leave it out, or name another model, such as a ViT",
    ),
    "drop_rate": ("drop_rate", "it is built without dropout", "leave it out"),
    "drop_path_rate": ("drop_path_rate", "it is built without stochastic depth", "leave it out"),
}
"""Settings that not every model takes, by timm's name: ours, why it does not, and the repair."""

_KEPT = "BatchNorm keeps the statistics of the weights it starts from; encoder.freeze_batch_norm = false trains them"


@register("encoder", "timm")
class TimmEncoder(nn.Module):
    """A timm model without its classifier: float images in [0, 1] to one feature vector an image.

    It normalises by the mean and standard deviation that its weights were trained with, or by 0.5 and 0.5 where the
    weights are random; for images of other than 1 or 3 channels, or of 16 bits, whose like no weights know, by those of
    the training images. Both are buffers, so a checkpoint carries them. `out_features` is the measured width of the
    features. `note` says what of a file of weights was taken, where that is not all of it, and that BatchNorm keeps the
    statistics of trained weights.

    Paper: Wightman, PyTorch Image Models, 2019 (doi:10.5281/zenodo.4414861). The CIFAR stem is that of Chen et al.,
        A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, appendix B.9.

    Args:
        model: name in timm, with or without the tag of its weights: "resnet18", "resnet18.a1_in1k".
        pretrained: fetch timm's weights, or take them from its cache.
        weights: path of a .safetensors, .pth, .pt, .pth.tar, .ckpt or .bin file to load instead, or in a recipe of a
            run folder, for its best checkpoint; every name and shape has to fit, below one prefix of all names
            ("module.encoder_q."), which is found. What was left out, as heads are, is said.
        weights_prefix: which network of the file is meant, where several fit: its prefix, or a part of it that the
            others do not have, such as "encoder_q" or "teacher".
        cifar_stem: for ResNets on small images: a 3x3 convolution of stride 1 and no max pooling at the start.
        in_chans: channels the model takes; grey images are repeated over them.
        global_pool: how timm pools the last feature map ("avg", "max", "token", ...); the model's own by default.
        image_size: for models that are built for one size (most transformers), that size: one number for squares, or
            height and width, [256, 128].
        dynamic_image_size: whether a transformer takes images of several sizes, as those of `multi-crop`: its position
            embedding is interpolated to each; sizes are multiples of its patches (timm's dynamic_img_size).
        drop_rate: share of the features that dropout zeroes in training; the model's own, mostly 0, by default.
        drop_path_rate: chance at which stochastic depth skips the last block in training, which falls to 0 towards the
            first; the model's own, mostly 0, by default.
        gradient_checkpointing: keep the input of each block alone for the backward pass, and compute the rest again:
            equal gradients in less memory, for about a third more time.
        trainable: which parameters are trained: "all", "none", "norms" (scales and shifts of normalisation layers), or
            "last:N", the last N blocks as timm's `group_matcher` counts them, of which the stem is the first.
        unfreeze_at: step of the run from which on all are trained, and those of `trainable` alone until then; with
            "none", the head learns alone for so many steps.
        frozen_mode: how blocks behave of which none is trained: "eval" stay in evaluation mode, so that equal images
            always give equal features; "train" keep dropout and BatchNorm as in training, so that running statistics
            adapt.
        freeze_batch_norm: whether BatchNorm layers keep their statistics, and, but for "norms", their scale and shift;
            by default where it starts from trained weights, as small batches of few classes spoil those statistics.

    Raises:
        RecipeError: for a name or a setting that timm does not know or that do not go together.
        DataError: where weights cannot be fetched, read or fitted.
    """

    extra_repr = show_settings
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        model: str,
        pretrained: bool = False,
        weights: str | None = None,
        weights_prefix: str | None = None,
        cifar_stem: bool = False,
        in_chans: Annotated[int, Ge(1)] = 3,
        global_pool: str | None = None,
        image_size: Side | tuple[Side, Side] | None = None,
        dynamic_image_size: bool = False,
        drop_rate: Rate = None,
        drop_path_rate: Rate = None,
        gradient_checkpointing: bool = False,
        trainable: Trainable = "all",
        unfreeze_at: UnfreezeAt = None,
        frozen_mode: Literal["eval", "train"] = "eval",
        freeze_batch_norm: FreezeBatchNorm = None,
    ) -> None:
        super().__init__()
        keep_settings(self, locals())
        _check(model, pretrained, weights, weights_prefix, cifar_stem)
        trained = pretrained or weights is not None
        self.name, self.in_chans = model, in_chans
        sizes = {"img_size": image_size, **({"dynamic_img_size": True} if dynamic_image_size else {})}
        if pretrained:
            _check_before_fetching(model, trainable, unfreeze_at, gradient_checkpointing)
        rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
        self.model = _create(model, pretrained, {"in_chans": in_chans, "global_pool": global_pool, **sizes, **rates})
        self.recomputes = gradient_checkpointing
        if gradient_checkpointing:
            _checkpoint_gradients(self.model, model)
        if cifar_stem:
            install_cifar_stem(self.model, model, in_chans)
        self.freezing = Freezing(
            self.model,
            model,
            trainable=trainable,
            unfreeze_at=unfreeze_at,
            frozen_mode=frozen_mode,
            batch_norm=trained if freeze_batch_norm is None else freeze_batch_norm,
        )

        config: dict[str, Any] = self.model.pretrained_cfg
        for name in ("mean", "std"):
            self.register_buffer(name, per_channel(config[name] if trained else (0.5,), in_chans))
        self.lacks_statistics = not trained or in_chans not in (1, 3)
        taken = None if weights is None else self._load(Path(weights), weights_prefix)

        self.size: tuple[int, int] = height_and_width(image_size or tuple(config["input_size"][1:]))
        self.fixed_size: bool = config.get("fixed_input_size", False)
        self.dynamic_image_size = dynamic_image_size
        self.out_features = _measure_width(self.model, model, in_chans, self.size)
        kept = _KEPT if trained and trainable != "none" and self.freezing.keeps_statistics() else None
        self.note = "; ".join(filter(None, (taken, kept))) or None
        self.start_step(unfreeze_at or 0)  # for an optimizer that is built of it: all that ever trains

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        normalised = (match_channels(images, self.in_chans) - self.mean) / self.std
        try:
            return self.model(normalised)  # type: ignore[no-any-return]  # timm is untyped
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            height, width = images.shape[2:]
            if not self.fixed_size or (height, width) == self.size:
                raise
            if self.dynamic_image_size:
                patches = "let the sizes in [views] be multiples of its patches"
                raise RecipeError(
                    f"encoder '{self.name}' takes no {height} x {width} pixels: {error}", help=patches
                ) from error
            one, several = f"encoder.image_size = {size_text(height, width)}", "encoder.dynamic_image_size = true"
            raise RecipeError(
                f"encoder '{self.name}' is built for {_by(*self.size)} pixels, not {_by(height, width)}: {error}",
                help=f"set {one}; where views have several sizes, as those of multi-crop, {several}",
            ) from error

    def use_statistics(self, mean: Float[Tensor, "c"], std: Float[Tensor, "c"]) -> None:
        """Normalises by these from now on, a number a channel, or one for all; where std is 0, by the mean alone."""
        if len(mean) in (1, self.in_chans):
            std = torch.where(std > 0, std, 1.0)
            for name, values in (("mean", mean), ("std", std)):
                getattr(self, name).copy_(values.view(-1, 1, 1))

    def start_step(self, step: int) -> None:
        """Lets train what trains in this step of a run, whatever came before it."""
        if self.freezing.apply(step):
            self.train()

    def parameter_blocks(self) -> list[list[nn.Parameter]]:
        """The parameters, block by block from the image on, for learning rates that differ among these."""
        names = blocks_of(self.model, self.name, "optimizer.layer_decay")
        return [[self.model.get_parameter(name) for name in block] for block in names]

    def train(self, mode: bool = True) -> TimmEncoder:
        super().train(mode)
        if mode:
            self.freezing.evaluate()
            self.training = self.model.training
        return self

    def _load(self, path: Path, prefix: str | None) -> str | None:
        classifiers = self.model.pretrained_cfg.get("classifier") or ()
        classifiers = [classifiers] if isinstance(classifiers, str) else classifiers
        heads = {name.partition(".")[0] for name in classifiers}
        # First of all what was saved from this class, normalisation included.
        before = self.mean.clone()
        taken = load_weights(path, [self, self.model], prefix=prefix, heads=heads)
        self.lacks_statistics = self.lacks_statistics and torch.equal(self.mean, before)
        return taken


def _check(model: str, pretrained: bool, weights: str | None, weights_prefix: str | None, cifar_stem: bool) -> None:
    if not timm.is_model(model) or ("." in model and model not in timm.list_models(pretrained=True)):
        raise RecipeError(f"timm has no model '{model}'", help=_suggest(model))
    if pretrained and weights is not None:
        raise RecipeError("encoder.pretrained and encoder.weights exclude each other", help="leave one of them out")
    if weights_prefix is not None and weights is None:
        raise RecipeError("encoder.weights_prefix is of a file, and encoder.weights names none", help="leave it out")
    if pretrained and cifar_stem:
        raise RecipeError(
            "encoder.cifar_stem replaces the first layer of the pretrained weights by a random one",
            help="leave out pretrained or cifar_stem",
        )
    if pretrained and not timm.is_model_pretrained(model):
        raise RecipeError(
            f"timm has no pretrained weights for '{model}'", help="leave out pretrained, or set weights = 'file'"
        )


def _suggest(model: str) -> str:
    base = model.partition(".")[0]
    tagged = [name for name in timm.list_models(pretrained=True) if name.startswith(f"{base}.")]
    names = tagged if "." in model and tagged else timm.list_models()
    close = difflib.get_close_matches(model, names, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"its weights are {', '.join(tagged[:5])}" if tagged else "timm.list_models() in Python lists all names"


def _create(model: str, pretrained: bool, settings: dict[str, Any]) -> Any:
    # Each of timm's models refuses in its own way, so every exception is taken, and kept as the cause.
    try:
        return timm.create_model(model, pretrained=pretrained, num_classes=0, **settings)
    except Exception as error:
        if pretrained:
            _create(model, False, settings)  # raises where the settings are at fault and not the weights
            raise DataError(
                f"cannot fetch the pretrained weights of '{model}': {error}",
                help="run once where the hub can be reached, or set weights = 'file' with a file that you have",
            ) from error
        for name, (ours, why, help) in _LACKED.items():
            if "unexpected keyword argument" in str(error) and f"'{name}'" in str(error):
                raise RecipeError(f"timm model '{model}' has no {ours}: {why}", help=help) from error
        given = ", ".join(f"{name} = {value!r}" for name, value in settings.items() if value is not None)
        raise RecipeError(
            f"timm cannot build '{model}' with {given.replace('img_size', 'image_size')}: {error}",
            help="leave out global_pool and image_size to take the model's own",
        ) from error


def _check_before_fetching(model: str, trainable: str, unfreeze_at: int | None, gradient_checkpointing: bool) -> None:
    """Tells what a model cannot do, by one without values, before its weights are fetched."""
    try:
        with torch.device("meta"):
            sketch = _create(model, False, {})
    except RecipeError:  # what cannot be built is told when it is
        return
    Freezing(sketch, model, trainable=trainable, unfreeze_at=unfreeze_at, frozen_mode="eval", batch_norm=False)
    if gradient_checkpointing:
        _checkpoint_gradients(sketch, model)


def _checkpoint_gradients(network: Any, name: str) -> None:
    try:
        network.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:  # timm asserts that nobody asks for it
        raise RecipeError(
            f"timm model '{name}' has no gradient_checkpointing",
            help="leave it out; train.chunk bounds the memory of a step for every model",
        ) from error


def _by(height: int, width: int) -> str:
    return f"{height} x {width}"


@torch.no_grad()
def _measure_width(network: nn.Module, name: str, in_chans: int, size: tuple[int, int]) -> int:
    # timm's num_features is not the pooled width for every model and pooling, so one image tells.
    network.eval()
    try:
        features = network(torch.zeros(1, in_chans, *size))
    except (AssertionError, RuntimeError) as error:
        raise RecipeError(f"timm model '{name}' cannot take images of {_by(*size)} pixels: {error}") from error
    if features.dim() != 2:
        raise RecipeError(
            f"timm model '{name}' gives features of shape {tuple(features.shape[1:])}, not one vector an image",
            help="set global_pool, for instance to 'avg'",
        )
    return int(features.shape[1])
