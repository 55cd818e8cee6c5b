"""What a run is too short for: numbers of a recipe that its length leaves without effect."""

from __future__ import annotations

from collections.abc import Iterator

from metriclab.recipe.problems import show
from metriclab.recipe.recipe import Recipe
from metriclab.recipe.train import parameters
from metriclab.registry.kinds import KINDS


def without_effect(recipe: Recipe, steps: int | None, epochs: float | int | None) -> Iterator[str]:
    """A sentence for each parameter that is a step of the run (`RunStep`) and that the run does not reach.

    Only what is measured by a known length is looked at. Of a run of no steps there is nothing to say, nor of an
    interval that is the default.

    Args:
        recipe: a checked recipe.
        steps: of the run, None where they are not known.
        epochs: of the run, None where they are not known.
    """
    lengths = {"steps": steps, "epochs": epochs, "share": steps}
    tables = [(KINDS[one.kind].table, one.definition.parameters, one.params) for one in recipe.specs()]
    for table, keys, values in [*tables, ("train", tuple(parameters()), recipe.train.model_dump())]:
        for key in keys:
            step, value = key.run_step, values.get(key.name)
            length = lengths[step.unit] if step else None
            if step is None or value is None or not length or not step.is_missed(value, length):
                continue
            if step.every and (value == key.default if step.beside is None else values[step.beside] is None):
                continue
            unit, reason = ("steps", "is less than one") if step.unit == "share" else (step.unit, "is not reached")
            place = f"{table}.{key.name} = {show(value)}"
            yield (
                f"{place} {reason} in a run of {round(length, 2):,} {unit}: {step.lost}; "
                f"{'raise' if step.unit == 'share' else 'lower'} it, or train longer"
            )
