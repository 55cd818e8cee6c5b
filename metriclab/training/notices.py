"""What a user should know of a run before its first step."""

from __future__ import annotations

from collections.abc import Iterator

from metriclab.assembly.assemble import Training
from metriclab.assembly.selection import why_no_loss
from metriclab.assembly.splits import Splits, has_labels
from metriclab.recipe import Recipe
from metriclab.recipe.run_length import without_effect
from metriclab.training.batches import coverage
from metriclab.training.chunks import batch_statistics


def notices(recipe: Recipe, training: Training, splits: Splits) -> Iterator[str]:
    """Settings without effect, images that are never drawn, and what cannot be measured, a sentence each."""
    epochs = training.steps / training.sampler.steps if training.sampler else None
    yield from without_effect(recipe, training.steps, epochs)
    note = getattr(training.method.get_submodule("network.encoder"), "note", None)
    of_sampler = getattr(training.sampler, "note", None)
    yield from filter(None, (note, of_sampler, coverage(training), batch_statistics(training)))
    if training.steps > 0 and (reason := why_no_loss(recipe, splits, training.method)) is not None:
        yield f"val.loss is not logged: {reason}"
    if not has_labels(splits.test):
        yield "the test split has no labels: the run trains and saves its encoder, but nothing can be measured"
