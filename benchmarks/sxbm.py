"""S-XBM beside PCA and beside the same layer trained on random pairs: what 32 dimensions keep of a teacher's MAP@R.

    metriclab run recipes/simclr-glyphs.toml --out runs/simclr
    python benchmarks/sxbm.py runs/simclr
    python benchmarks/sxbm.py RUN_ON_FABRICS --set data.name=fabrics --set encoder.model=test_resnet

The teacher is the frozen encoder of the run. All see its features of the training images only, and are measured on the
test images, whose classes are not trained on, leave-one-out. Random pairs are those of the same method, recipe and seed
when it is given random rows of its memory in place of the nearest.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.decomposition import PCA

from metriclab.api import build, load, rows
from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.core.network import embedding_function
from metriclab.core.rows import Rows
from metriclab.evaluation.embed import embed, embedding_settings
from metriclab.methods import sxbm
from metriclab.methods.neighbours import Neighbours, nearest_features
from metriclab.recipe import read_recipe
from metriclab.runs.folder import RunFolder
from metriclab.training.experiment import experiment

RECIPE = Path(__file__).parents[1] / "recipes" / "sxbm.toml"


def map_at_r(z: torch.Tensor, labels: torch.Tensor) -> float:
    queries = rows(z, labels)
    return build("evaluator", "retrieval")(queries, queries)["map_at_r"].value


def random_rows(anchors: Rows, memory: Rows, k: int) -> Neighbours:
    """Random rows of the memory in place of the nearest, never the anchor's own item."""
    usable = (memory.items >= 0) & (memory.items != anchors.items[:, None])
    chance = usable.float() + torch.finfo(torch.float32).tiny
    index = chance.multinomial(min(k, len(memory)))
    here = usable.gather(1, index)
    similarity = (anchors.z @ memory.z.T).gather(1, index)
    return Neighbours(index, similarity.masked_fill(~here, -torch.inf))


def trained(recipe) -> float:
    """MAP@R of what the recipe gives."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        for _ in experiment(recipe, run, quiet=True):
            pass
        return run.result()["metrics"]["retrieval"]["map_at_r"]


def gain(values: list[float], others: list[float]) -> str:
    """The mean difference with its t-interval over seeds."""
    difference = np.array(values) - np.array(others)
    low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    return f"{difference.mean():+.4f}, 95 % interval over seeds {low:+.4f} to {high:+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Of the recipe.")
    given = parser.parse_args()
    start = [f"encoder.weights='{given.run}'", *given.set]
    first = read_recipe(RECIPE, start)
    splits = load_splits(first)
    reading = embedding_settings(assemble(first, splits.train))
    embedder = load(given.run)
    train, test = (
        embed(embedding_function(embedder.method), split, reading).h for split in (splits.train, splits.test)
    )
    width = first.components["head"].params["embedding_dim"]
    pca = PCA(width, random_state=0).fit(train.z.numpy())
    by_pca = map_at_r(torch.from_numpy(pca.transform(test.z.numpy())), test.labels)
    print(f"teacher, {train.width} dimensions: {map_at_r(test.z, test.labels):.4f}")
    print(f"PCA to {width}: {by_pca:.4f}", flush=True)
    for form, recipe_file in (("with a pair loss", RECIPE), ("aligned, without labels", without_loss())):
        found = {"S-XBM": [], "random pairs": []}
        for seed in range(given.seeds):
            recipe = read_recipe(recipe_file, [*start, f"train.seed={seed}"])
            for name, search in (("S-XBM", nearest_features), ("random pairs", random_rows)):
                sxbm.nearest_features = search
                found[name].append(trained(recipe))
        for name, values in found.items():
            print(f"{name}, {form}: {np.mean(values):.4f}  ({', '.join(f'{value:.4f}' for value in values)})")
        print(f"S-XBM less PCA: {gain(found['S-XBM'], [by_pca] * given.seeds)}")
        print(f"S-XBM less random pairs: {gain(found['S-XBM'], found['random pairs'])}", flush=True)


def without_loss() -> Path:
    """The recipe without its table [loss]."""
    text = re.sub(r"\[loss\]\n(?:[^\[\n].*\n)+", "", RECIPE.read_text("utf-8"))
    path = Path(tempfile.mkdtemp()) / RECIPE.name
    path.write_text(text, "utf-8")
    return path


if __name__ == "__main__":
    main()
