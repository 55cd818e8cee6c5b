"""A run small enough for tests: synthetic images of 8 pixels, a tiny ResNet, a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metriclab.recipe import Recipe, read_recipe
from metriclab.runs.folder import RunFolder
from metriclab.training.experiment import experiment
from metriclab.training.status import RunStatus

TINY = """
[data]
name = "synthetic"
size = 12

[views]
name = "simclr"
size = 8

[sampler]
name = "shuffled"
batch_size = 16

[encoder]
name = "timm"
model = "test_resnet"

[head]
name = "mlp"
hidden = 16
embedding_dim = 8

[loss]
name = "nt-xent"

[method]
name = "simclr"

[optimizer]
name = "sgd"
learning_rate = 0.05

[schedule]
name = "cosine"
warmup = 0.1

[train]
steps = 7
evaluate_every = 1
checkpoint_every = 2
log_every = 1

[[track]]
name = "jsonl"

[[evaluate]]
name = "retrieval"
"""


def tiny(folder: Path, *overrides: str) -> Recipe:
    """The tiny recipe, read from a file in the folder."""
    path = folder / "tiny.toml"
    path.write_text(TINY)
    return read_recipe(path, overrides)


def run(recipe: Recipe, folder: Path, **options: Any) -> list[RunStatus]:
    """Runs it to the end."""
    return list(experiment(recipe, RunFolder(folder), **options))


def outcome(folder: Path) -> dict[str, Any]:
    """All of a finished run that a resume must not change: metrics, result and checkpoint hashes, without times."""
    result = json.loads((folder / "result.json").read_text())
    for key in ("train_seconds", "images_per_second", "peak_memory_mb", "embedded_per_second"):
        del result["cost"][key]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
    hashes = {}
    for path in sorted((folder / "checkpoints").glob("*.json")):
        hashes[path.stem] = json.loads(path.read_text())["body"]["tensors_sha256"]
    return {"result": result, "metrics": lines, "checkpoints": hashes}
