"""`metriclab check` and `metriclab schema`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from metriclab.cli.options import plugin_option
from metriclab.recipe import Recipe, read


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Change one value of the recipe.")
@plugin_option
def check(recipe: Path, overrides: tuple[str, ...]) -> None:
    """Check RECIPE without running it: print all that is wrong with it, or what it would run."""
    click.echo(f"recipe is fine: {summary(read(recipe, overrides))}")


@click.command()
@plugin_option
def schema() -> None:
    """Print the JSON Schema of recipes, with every installed component, for editors."""
    from metriclab.recipe.schema import schema as recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


def summary(recipe: Recipe) -> str:
    """What a recipe runs, on one line."""
    name = {kind: chosen.name for kind, chosen in recipe.components.items()}
    parts = [name[kind] for kind in ("loss", "miner", "memory") if kind in name]
    method = f"method {name['method']}" + (f" ({', '.join(parts)})" if parts else "")
    length = f"{recipe.train.steps:,} steps" if recipe.train.epochs is None else f"{recipe.train.epochs:,} epochs"
    measured = ", ".join(evaluator.label for evaluator in recipe.evaluators) or "nothing"
    return f"{method} on {name['dataset']} with encoder {name['encoder']}, {length}, measured by {measured}"
