"""Fine-tuning as scripts of the field write it, beside the suite of benchmarks/icons-suite.toml.

    python benchmarks/icons.py icons
    python benchmarks/usual_script.py icons icons/runs/full

timm's network with the same weights, torchvision's transforms, pytorch-metric-learning's MPerClassSampler, its
multi-similarity miner and loss, AdamW on a cosine with warm-up: equal steps, batches, crops, learning rates and choice
on val. Both sides are measured by metriclab's retrieval on the encoder's features. With `--train-batch-norm` the
network is in training mode, BatchNorm included, as most scripts leave it.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

from metriclab.comparison.statistics import t_interval
from metriclab.core.rows import rows
from metriclab.evaluators import Retrieval

SIDE, CLASSES, PER_CLASS, RATE, HEAD_FACTOR, DECAY, WARM_UP = 64, 16, 4, 3e-4, 10.0, 1e-4, 0.1
METRICS = ("map_at_r", "r_at_1")


def pictures(folder: Path, split: str, *, train: bool) -> ImageFolder:
    crop = [transforms.RandomResizedCrop(SIDE, scale=(0.7, 1.0))] if train else [transforms.Resize(SIDE)]
    return ImageFolder(folder / "icons" / split, transforms.Compose([*crop, transforms.ToTensor(), scaled]))


scaled = transforms.Normalize([0.5] * 3, [0.5] * 3)


@torch.inference_mode()
def measure(trunk: nn.Module, data: ImageFolder) -> dict[str, float]:
    trunk.eval()
    loader = torch.utils.data.DataLoader(data, 256)
    h, labels = (torch.cat(part) for part in zip(*((trunk(images), labels) for images, labels in loader), strict=True))
    embedded = rows(h, labels, torch.arange(len(labels)))
    scores = Retrieval()(embedded, embedded)
    return {name: scores[name].value for name in METRICS}


def train(folder: Path, seed: int, steps: int, train_batch_norm: bool) -> dict[str, float]:
    from pytorch_metric_learning.losses import MultiSimilarityLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner
    from pytorch_metric_learning.samplers import MPerClassSampler

    torch.manual_seed(seed)
    np.random.seed(seed)
    data, val = pictures(folder, "train", train=True), pictures(folder, "val", train=False)
    trunk = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    trunk.load_state_dict(load_file(folder / "efficientnet-lite0.safetensors"), strict=False)
    head = nn.Linear(trunk.num_features, 128)
    norms = [layer for layer in trunk.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if not train_batch_norm:
        for layer in norms:
            layer.requires_grad_(False)
    batch = CLASSES * PER_CLASS
    sampler = MPerClassSampler(data.targets, PER_CLASS, batch_size=batch, length_before_new_iter=len(data))
    loader = torch.utils.data.DataLoader(data, batch, sampler=sampler, drop_last=True)
    trained = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
    groups = [{"params": trained, "lr": RATE}, {"params": head.parameters(), "lr": RATE * HEAD_FACTOR}]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    rising = round(WARM_UP * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    miner, loss_function = MultiSimilarityMiner(), MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    best, chosen, done = -1.0, copy.deepcopy(trunk.state_dict()), 0
    while done < steps:
        for images, labels in loader:
            trunk.train()
            if not train_batch_norm:
                for layer in norms:
                    layer.eval()
            z = head(trunk(images))
            loss = loss_function(z, labels, miner(z, labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done % 42 == 0 or done == steps:  # an epoch of the other side
                value = measure(trunk, val)["map_at_r"]
                if value > best:
                    best, chosen = value, copy.deepcopy(trunk.state_dict())
            if done == steps:
                break
    trunk.load_state_dict(chosen)
    return measure(trunk, pictures(folder, "test", train=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="that benchmarks/icons.py wrote")
    parser.add_argument("ours", type=Path, nargs="?", help="folder of an entry of the suite, to compare with")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train-batch-norm", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    theirs = []
    for seed in range(options.seeds):
        theirs.append(train(options.folder, seed, options.steps, options.train_batch_norm))
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in theirs[-1].items()), flush=True)
    for name in METRICS:
        values = np.array([one[name] for one in theirs])
        print(f"usual script {name}: {values.mean():.4f}")
        if options.ours is not None and len(values) > 1:
            results = [
                json.loads((options.ours / f"seed-{seed}" / "result.json").read_text()) for seed in range(len(values))
            ]
            difference = np.array([result["metrics"]["retrieval"][name] for result in results]) - values
            interval = t_interval(difference)
            print(f"  ours is {difference.mean():+.4f}, over seeds {interval.low:+.4f} to {interval.high:+.4f}")


if __name__ == "__main__":
    main()
