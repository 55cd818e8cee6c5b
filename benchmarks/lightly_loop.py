"""SimCLR as lightly's documentation writes it, with the settings of one of our recipes; the peer of two benchmarks.

Transforms on PIL images in the workers of a DataLoader, lightly's projection head and its NTXentLoss, each view through
the network by itself. Encoder (timm) and optimizer are the recipe's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn


class Pictures(torch.utils.data.Dataset):
    """Images of one of our data sets as PIL images, transformed one by one.

    Args:
        data: whose images have one size.
        transform: of a PIL image.
        mode: PIL's, "L" or "RGB"; None leaves the images as they are.
    """

    def __init__(self, data, transform, mode: str | None = None) -> None:
        self.pixels = data.images(np.arange(len(data.labels))).pixels.permute(0, 2, 3, 1).squeeze(3).numpy()
        self.transform, self.mode = transform, mode

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, item: int):
        image = Image.fromarray(self.pixels[item])
        return self.transform(image if self.mode is None else image.convert(self.mode))


def loader(data, batch_size: int, workers: int) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(
        data,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def for_ever(batches: torch.utils.data.DataLoader) -> Iterator:
    """Epoch after epoch."""
    while True:
        yield from batches


def transform_of(views: dict, normalize: bool = True, channels: int = 1):
    """SimCLRTransform with the parameters of our views `simclr`."""
    from lightly.transforms import SimCLRTransform

    assert views.get("max_area", 1) == 1
    assert views.get("solarize", 0) == 0
    return SimCLRTransform(
        input_size=views["size"],
        cj_strength=views["colour"],
        min_scale=views["min_area"],
        random_gray_scale=views["grayscale"],
        gaussian_blur=views["blur"],
        hf_prob=views["flip"],
        rr_prob=float(views["rotation"] > 0),
        rr_degrees=views["rotation"] or None,
        normalize={"mean": [0.5] * channels, "std": [0.5] * channels} if normalize else None,
    )


class SimCLR(nn.Module):
    """Encoder and head; grey images are repeated over the channels of the encoder."""

    def __init__(self, model: str, hidden: int, width: int) -> None:
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__()
        self.backbone = timm.create_model(model, num_classes=0)
        features = self.backbone(torch.zeros(2, 3, 32, 32)).shape[1]
        self.projection_head = SimCLRProjectionHead(features, hidden, width)

    def features(self, images):
        return self.backbone(images.expand(-1, 3, -1, -1))

    def forward(self, images):
        return self.projection_head(self.features(images))


def build(recipe) -> tuple[SimCLR, torch.optim.Optimizer]:
    """The recipe's encoder with a head of its widths, and its optimizer."""
    parts = recipe.components
    torch.manual_seed(recipe.train.seed)
    head = parts["head"].params
    model = SimCLR(parts["encoder"].params["model"], head["hidden"], head["embedding_dim"])
    modules = {"encoder": model.backbone, "head": model.projection_head}
    return model, parts["optimizer"].build(modules)


def train(model: SimCLR, optimizer, recipe, data, *, workers: int, mode: str, schedule=None) -> Iterator[int]:
    """Trains for ever; yields the number of images after every step."""
    from lightly.loss import NTXentLoss

    parts = recipe.components
    criterion = NTXentLoss(temperature=parts["loss"].params["temperature"])
    transform = transform_of(parts["views"].params, channels=len(mode))
    pictures = Pictures(data, transform, mode)
    model.train()
    for x0, x1 in for_ever(loader(pictures, parts["sampler"].params["batch_size"], workers)):
        if schedule is not None:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * schedule(0)
        loss = criterion(model(x0), model(x1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield len(x0)
