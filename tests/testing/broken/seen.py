"""Data sets, views, samplers and encoders that are wrong, each in the way its name says."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from metriclab.api import Images, RandomKeys, register


class Squares:
    """Good views: a random brightness of the image scaled to 8 x 8, told by the draws of each image."""

    count = 2

    def __call__(self, images: Images, keys: RandomKeys) -> tuple[Tensor, ...]:
        view = self.test(images)
        return tuple(view * self.brightness(keys, place)[:, None, None, None] for place in range(self.count))

    def brightness(self, keys: RandomKeys, view: int) -> Tensor:
        return 0.5 + 0.5 * keys.uniform(view, 0)[:, 0]

    def test(self, images: Images) -> Tensor:
        cropped = [
            pixels[None, :, :height, :width].float() / 255
            for pixels, (height, width) in zip(images.pixels, images.sizes.tolist(), strict=True)
        ]
        return torch.cat([interpolate(one, (8, 8)) for one in cropped])


@register("views", "good")
def good_views():
    return Squares()


@register("views", "one-draw-for-the-batch")
class OneDrawForTheBatch(Squares):
    """A pure function, and independent of the batch; but every image gets the same."""

    def brightness(self, keys: RandomKeys, view: int) -> Tensor:
        generator = torch.Generator().manual_seed(keys.seed + keys.epoch + view)
        return torch.rand(1, generator=generator).expand(len(keys.items))


@register("views", "first-image-decides")
class FirstImageDecides(Squares):
    def brightness(self, keys: RandomKeys, view: int) -> Tensor:
        return super().brightness(keys, view)[:1].expand(len(keys.items))


@register("views", "draws-globally")
class DrawsGlobally(Squares):
    def brightness(self, keys: RandomKeys, view: int) -> Tensor:
        return torch.rand(len(keys.items))


@register("views", "one-draw-for-both-views")
class OneDrawForBothViews(Squares):
    def brightness(self, keys: RandomKeys, view: int) -> Tensor:
        return super().brightness(keys, 0)


@register("views", "ignores-copies")
class IgnoresCopies(Squares):
    """An item that comes twice in an epoch looks the same both times."""

    def brightness(self, keys: RandomKeys, view: int) -> Tensor:
        return super().brightness(RandomKeys(keys.seed, keys.epoch, keys.items, torch.zeros_like(keys.repeats)), view)


@register("views", "sees-padding")
class SeesPadding(Squares):
    def test(self, images: Images) -> Tensor:
        return interpolate(images.pixels.float() / 255, (8, 8))


@register("views", "normalises")
class Normalises(Squares):
    def test(self, images: Images) -> Tensor:
        return (super().test(images) - 0.5) / 0.5


@register("views", "mutates-its-input")
class MutatesImages(Squares):
    def test(self, images: Images) -> Tensor:
        images.pixels.clamp_(max=200)
        return super().test(images)


@register("views", "counts-its-calls")
class CountsItsCalls(Squares):
    """To be stronger in later epochs."""

    calls = 0

    def __call__(self, images: Images, keys: RandomKeys) -> tuple[Tensor, ...]:
        self.calls += 1
        return super().__call__(images, keys)


@register("views", "miscounts")
class Miscounts(Squares):
    count = 2

    def __call__(self, images: Images, keys: RandomKeys) -> tuple[Tensor, ...]:
        return super().__call__(images, keys)[:1]


class InOrder:
    """A good sampler, but for the order."""

    def __init__(self, labels: np.ndarray, batch_size: int = 32) -> None:
        self.items, self.batch_size = len(labels), batch_size
        self.steps = self.items // batch_size

    def order(self, seed: int) -> np.ndarray:
        return np.argsort(np.random.Philox(seed).random_raw(self.items))

    def epoch(self, seed: int) -> list[np.ndarray]:
        return np.split(self.order(seed)[: self.steps * self.batch_size], self.steps)


@register("sampler", "good")
class GoodSampler(InOrder):
    def __init__(self, labels: np.ndarray, /) -> None:
        super().__init__(labels)


@register("sampler", "draws-globally")
class SamplesGlobally(GoodSampler):
    def order(self, seed: int) -> np.ndarray:
        return np.random.permutation(self.items)


@register("sampler", "seeds-globally")
class SeedsGlobally(GoodSampler):
    """The same order every time, and every other user of the generator now has it too."""

    def order(self, seed: int) -> np.ndarray:
        np.random.seed(seed % 2**32)
        return np.random.permutation(self.items)


@register("sampler", "goes-on")
class GoesOn(GoodSampler):
    """A generator of its own, which no checkpoint has."""

    def __init__(self, labels: np.ndarray, /) -> None:
        super().__init__(labels)
        self.generator = np.random.default_rng(0)

    def order(self, seed: int) -> np.ndarray:
        return self.generator.permutation(self.items)


@register("sampler", "counts-epochs")
class CountsEpochs(GoodSampler):
    """For a curriculum that a resumed run begins anew."""

    epochs = 0

    def order(self, seed: int) -> np.ndarray:
        self.epochs += 1
        return super().order(seed)


@register("sampler", "small-seeds")
class SmallSeeds(GoodSampler):
    """numpy's old generator takes seeds of 32 bits."""

    def order(self, seed: int) -> np.ndarray:
        return np.random.RandomState(seed).permutation(self.items)


@register("sampler", "never-shuffles")
class NeverShuffles(GoodSampler):
    def order(self, seed: int) -> np.ndarray:
        return np.arange(self.items)


@register("sampler", "out-of-range")
class OutOfRange(GoodSampler):
    def order(self, seed: int) -> np.ndarray:
        return 1 + super().order(seed)


@register("sampler", "miscounts")
class MiscountsSteps(GoodSampler):
    def epoch(self, seed: int) -> list[np.ndarray]:
        return super().epoch(seed)[:-1]


class Good(nn.Module):
    """A good encoder, to be spoilt."""

    def __init__(self) -> None:
        super().__init__()
        self.out_features = 7
        self.layer = nn.Conv2d(3, 7, 5, stride=3)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images - 0.5).mean((2, 3))


@register("encoder", "good")
class GoodEncoder(Good):
    pass


@register("encoder", "wrong-width")
class WrongWidth(Good):
    def __init__(self) -> None:
        super().__init__()
        self.out_features = 512


@register("encoder", "mixes-images")
class MixesImages(Good):
    """Normalises by the batch, in evaluation too."""

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features - features.mean(0)


@register("encoder", "state-outside-buffers")
class HiddenMean(Good):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(7)

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * features.detach().mean(0)
        return features - self.mean


@register("encoder", "mutates-its-input")
class NormalisesInPlace(Good):
    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.sub_(0.5)).mean((2, 3))


@register("encoder", "divides-by-contrast")
class DividesByContrast(Good):
    """A black image has none."""

    def forward(self, images: Tensor) -> Tensor:
        contrast = images.std((1, 2, 3), keepdim=True)
        return super().forward(images / contrast)


@register("encoder", "dead-layer")
class DeadLayer(Good):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(7, 7)


@register("encoder", "layers-in-a-list")
class LayersInAList(nn.Module):
    """Not one of them is trained or saved."""

    def __init__(self) -> None:
        super().__init__()
        self.out_features = 7
        self.layers = [nn.Conv2d(3, 7, 5, stride=3)]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers[0](images - 0.5).mean((2, 3))


@register("encoder", "some-layers-in-a-list")
class SomeLayersInAList(Good):
    def __init__(self) -> None:
        super().__init__()
        self.more = {"last": nn.Linear(7, 7)}

    def forward(self, images: Tensor) -> Tensor:
        return self.more["last"](super().forward(images))


@register("encoder", "plain-weights")
class PlainWeights(Good):
    """Drawn anew in each process."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(7, 7)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) @ self.weight


@register("encoder", "stops-gradients")
class StopsGradients(Good):
    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features.detach() + 0 * features


@register("head", "unregistered")
class UnregisteredHead(nn.Module):
    def __init__(self, in_features: int, /) -> None:
        super().__init__()
        self.out_features = 4
        self.weight = torch.randn(in_features, 4)

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight.to(features)


@register("encoder", "needs-contiguous")
class NeedsContiguous(Good):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.view(len(images), -1))


@register("encoder", "drops-out-in-eval")
class DropsOutInEval(Good):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(images), 0.5, training=True)


class Squared:
    """A good data set: 12 images of 3 classes a split."""

    def __init__(self, split: str) -> None:
        self.split = split
        self.labels = np.arange(12, dtype=np.int64) % 3
        self.classes = ["a", "b", "c"]
        self.names = [f"{split}/{item}" for item in range(12)]
        self.fingerprint = split.encode().hex().ljust(8, "0")

    def images(self, items: np.ndarray) -> Images:
        grey = torch.from_numpy(items * 10).to(torch.uint8)[:, None, None, None].expand(-1, 1, 6, 6)
        return Images(grey.contiguous(), torch.full((len(items), 2), 6))


@register("dataset", "good")
class GoodData(Squared):
    def __init__(self, split: str, /) -> None:
        super().__init__(split)


@register("dataset", "one-fingerprint")
class OneFingerprint(GoodData):
    def __init__(self, split: str, /) -> None:
        super().__init__(split)
        self.fingerprint = "0123456789abcdef"


@register("dataset", "sorts-items")
class SortsItems(GoodData):
    def images(self, items: np.ndarray) -> Images:
        return super().images(np.sort(items))


@register("dataset", "hands-out-its-own")
class HandsOutItsOwn(GoodData):
    """One buffer for all calls."""

    def __init__(self, split: str, /) -> None:
        super().__init__(split)
        self.pixels = super().images(np.arange(12)).pixels

    def images(self, items: np.ndarray) -> Images:
        pixels = self.pixels[int(items[0]) :][:1] if len(items) == 1 else self.pixels[torch.from_numpy(items)]
        if len(items) > 12:
            self.pixels.fill_(0)
        return Images(pixels, torch.full((len(items), 2), 6))


@register("dataset", "floats")
class Int32Labels(GoodData):
    def __init__(self, split: str, /) -> None:
        super().__init__(split)
        self.labels = self.labels.astype(np.int32)


@register("dataset", "renumbers-classes")
class RenumbersClasses(GoodData):
    """Every split counts its own classes from 0."""

    def __init__(self, split: str, /) -> None:
        super().__init__(split)
        self.classes = [f"{split}-{name}" for name in self.classes]


@register("dataset", "augments")
class Augments(GoodData):
    def images(self, items: np.ndarray) -> Images:
        images = super().images(items)
        images.pixels.add_(torch.randint(0, 9, (1,)).to(torch.uint8))
        return images


@register("dataset", "floats-to-uint8")
class FloatsToBytes(GoodData):
    """Cast before they are scaled: black."""

    def images(self, items: np.ndarray) -> Images:
        images = super().images(items)
        return Images((images.pixels / 255).to(torch.uint8), images.sizes)


@register("dataset", "doubled-names")
class DoubledNames(GoodData):
    def __init__(self, split: str, /) -> None:
        super().__init__(split)
        self.names = [f"{label}.png" for label in self.labels]


@register("dataset", "other-images-with-split")
class OtherImagesWithSplit(GoodData):
    shift = 0

    def with_split(self, split: str) -> GoodData:
        other = type(self)(split)
        other.shift = 5
        return other

    def images(self, items: np.ndarray) -> Images:
        images = super().images(items)
        return Images(images.pixels + self.shift, images.sizes)


@register("dataset", "splits-itself")
class SplitsItself(GoodData):
    """Becomes the other split in place of giving it."""

    def with_split(self, split: str) -> GoodData:
        self.__init__(split)  # type: ignore[misc]
        return self


@register("dataset", "labels-on-reading")
class LabelsOnReading(GoodData):
    """Finds labels as it reads."""

    def images(self, items: np.ndarray) -> Images:
        self.labels = (np.arange(12) + 1) % 3
        return super().images(items)


@register("dataset", "draws-its-labels")
class DrawsItsLabels(GoodData):
    """A split drawn anew by each process."""

    def __init__(self, split: str, /) -> None:
        super().__init__(split)
        self.labels = np.random.default_rng().permutation(12) % 3


@register("dataset", "one-image")
class OneImage(GoodData):
    def images(self, items: np.ndarray) -> Images:
        return super().images(np.full_like(items, 3))
