"""Queries and gallery of one encoder: which rows are one image."""

import torch

from metriclab.assembly.splits import load_splits
from metriclab.evaluation.baselines import raw_pixels
from metriclab.evaluation.embed import EmbeddingSettings, embed_splits
from tests.support.tiny import tiny


def test_a_gallery_of_its_own_is_numbered_behind_the_queries(tmp_path):
    recipe = tiny(tmp_path)
    splits = load_splits(recipe)
    settings = EmbeddingSettings(recipe.components["views"].build(), torch.device("cpu"), 64)
    queries, gallery = embed_splits(raw_pixels, splits.test, splits.train, settings).rows("h")
    count = len(splits.test.labels)
    assert queries.items.tolist() == list(range(count))
    assert gallery.items.tolist() == list(range(count, count + len(splits.train.labels)))
    alone = embed_splits(raw_pixels, splits.test, splits.test, settings)
    assert alone.gallery is alone.queries
