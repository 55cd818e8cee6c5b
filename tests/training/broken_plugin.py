"""Components that a run must refuse by name, in a file as a third party would write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD

from metriclab.api import (
    EvaluatedEncoder,
    Images,
    Loss,
    Network,
    Pairs,
    RandomKeys,
    Rows,
    Score,
    register,
    rows,
)


@register("dataset", "good")
class Good:
    """48 images of 4 classes a split."""

    channels = 3

    def __init__(self, split: str, /) -> None:
        self.labels = np.arange(48) % 4 + (0 if split == "train" else 4)
        self.classes, self.names = list("abcdefgh"), [f"{split}/{item}" for item in range(48)]
        self.fingerprint = split.encode().hex()

    def images(self, items: np.ndarray, /) -> Images:
        pixels = torch.from_numpy(items).to(torch.uint8)[:, None, None, None] * 5
        return Images(pixels.expand(-1, self.channels, 12, 12).contiguous(), torch.full((len(items), 2), 12))


@register("dataset", "int32")
class Int32(Good):
    def __init__(self, split: str, /) -> None:
        super().__init__(split)
        self.labels = self.labels.astype(np.int32)


@register("dataset", "other-val")
class OtherVal(Good):
    def with_split(self, split: str) -> Good:
        return Int32(split)


@register("dataset", "unnamed")
class Unnamed(Good):
    def __init__(self, split: str, /) -> None:
        super().__init__(split)
        self.names = []


@register("views", "half")
class Half:
    count = 2

    def __init__(self) -> None:
        pass

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Tensor, ...]:
        return (self.test(images).half(),) * self.count

    def test(self, images: Images, /) -> Tensor:
        return images.pixels[..., :8, :8].float() / 255


@register("views", "miscounts")
class Miscounts(Half):
    def __init__(self) -> None:
        pass

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Tensor, ...]:
        return (self.test(images),)


@register("sampler", "floats")
class Floats:
    batch_size = 4
    steps = 1

    def __init__(self, labels: np.ndarray, /) -> None:
        pass

    def epoch(self, seed: int, /) -> list[np.ndarray]:
        return [np.arange(4.0)]


@register("encoder", "wide")
class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out_features = 4

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@register("head", "function")
def function(in_features: int, /):
    return function


@register("loss", "number")
def number():
    return 1.0


@register("loss", "each")
class Each(nn.Module):
    def __init__(self) -> None:
        super().__init__()

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        return anchors.z.sum(1)


@register("method", "forgets")
class Forgets(nn.Module):
    def __init__(self, network: Network, /, *, loss: Loss) -> None:
        super().__init__()
        self.model = network

    def objective(self, local: object, world: object) -> None: ...
    def after_step(self, world: object, step: int) -> None: ...


@register("optimizer", "nameless")
def nameless(modules: Mapping[str, nn.Module], /) -> SGD:
    return SGD({id(p): p for module in modules.values() for p in module.parameters()}.values(), lr=0.1)


@register("schedule", "negative")
def negative(total_steps: int, /):
    return lambda step: -1.0


@register("evaluator", "numbers")
class Numbers:
    def __init__(self) -> None:
        pass

    def __call__(self, queries: Rows, gallery: Rows, /) -> dict[str, float]:
        return {"hit": 0.5}


@register("evaluator", "asks-encoder")
class AsksEncoder(Numbers):
    wants = "encoder"

    def __call__(self, encoder: EvaluatedEncoder, /) -> dict[str, float]:
        changed = encoder.embed_changed(lambda images, items: images, torch.arange(2))
        return {"hit": float(len(changed) + len(encoder.embed_other(None, None)))}


@register("evaluator", "late")
class Late(Numbers):
    """Keeps to its protocol on a few rows alone."""

    def __call__(self, queries: Rows, gallery: Rows, /) -> dict[str, Score]:
        return {"hit": Score(1.0, torch.zeros(12), "hits (late/1)")}


@register("evaluator", "needs-many")
class NeedsMany(Numbers):
    def __call__(self, queries: Rows, gallery: Rows, /) -> dict[str, Score]:
        if len(queries) < 20:
            raise ValueError("more rows")
        return {"one": Score(1.0, torch.empty(0), "one (needs-many/1)")}


@register("tracker", "endless")
class Endless:
    def __init__(self, folder: Path, /) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float], /) -> None: ...


@register("memory", "narrow")
class Narrow(nn.Module):
    def __init__(self, embedding_dim: int, /) -> None:
        super().__init__()

    def rows(self) -> Rows:
        return rows(torch.ones(2, 3), [0, 1])

    def push(self, rows: Rows, /) -> None: ...


@register("miner", "grows")
def grows():
    return lambda pairs: _all_negative(pairs)


def _all_negative(pairs: Pairs) -> Pairs:
    return replace(pairs, negative=~pairs.positive)
