"""`metriclab check` and `metriclab schema`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from metriclab.cli.options import json_option, plugin_option
from metriclab.errors import MetriclabError, RecipeError
from metriclab.recipe import Recipe, read_recipe
from metriclab.recipe.run_length import without_effect


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Change one value of the recipe.")
@click.option("--data", "with_data", is_flag=True, help="Read all of its data, and tell what is wrong with them.")
@json_option
@plugin_option
def check(recipe: Path, overrides: tuple[str, ...], with_data: bool, as_json: bool) -> None:
    """Check RECIPE without running it: print all that is wrong with it, or what it would run.

    All is built that a run builds before its first step, on the CPU, and one image goes through; data are listed where
    they are. Nothing is fetched, decoded or written.

    With --data, also read every image: files that give none, copies and look-alikes in and across splits, classes that
    splits share in part, classes of one image. It ends with 1 if anything would make results mislead. This is an option
    and no command of its own, as data are found by way of a recipe, which has to be right first.
    """
    if as_json and not with_data:
        raise RecipeError("--json is for what is found in data", help="add --data")
    checked = read_recipe(recipe, overrides)
    problem = _rehearse(checked, tell_data=not with_data)
    if problem is not None and not with_data:
        raise problem
    if problem is not None:
        click.echo(str(problem), err=True)
    elif not as_json:
        click.echo(f"recipe is fine: {summary(checked)}")
    for text in without_effect(checked, checked.train.steps, checked.train.epochs):
        click.echo(f"warning: {text}", err=True)
    if with_data:
        fine = _check_data(checked, as_json)
        if problem is not None or not fine:
            sys.exit(1 if problem is None else problem.exit_code)


def _rehearse(recipe: Recipe, *, tell_data: bool) -> MetriclabError | None:
    """What would stop a run before its first step."""
    # Imported here, as it imports torch, which a recipe with a mistake can do without.
    from metriclab.assembly.rehearsal import rehearse

    problems, notes = rehearse(recipe, tell_data=tell_data)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if len(problems) <= 1:
        return problems[0] if problems else None
    return RecipeError(
        "\n".join([f"{len(problems)} things would stop the run before its first step:", *map(str, problems)])
    )


def _check_data(recipe: Recipe, as_json: bool) -> bool:
    """Prints what is found in the data, and says whether they are fine."""
    # Imported here, as they import torch, which the check of a recipe alone can do without.
    from metriclab.audit.check import check_data
    from metriclab.cli.data_text import data_text
    from metriclab.runs.files import to_json

    report = check_data(recipe)
    click.echo(to_json(report.to_dict()) if as_json else data_text(report), nl=False)
    return report.fine


@click.command()
@plugin_option
def schema() -> None:
    """Print the JSON Schema of recipes, with every installed component, for editors."""
    from metriclab.recipe.schema import schema as recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


def summary(recipe: Recipe) -> str:
    """What a recipe runs, on one line."""
    name = {kind: chosen.name for kind, chosen in recipe.components.items()}
    if recipe.losses:
        name["loss"] = " + ".join(part for entry in recipe.losses.entries for part, _ in entry.parts())
    parts = [name[kind] for kind in ("loss", "miner", "memory") if kind in name]
    method = f"method {name['method']}" + (f" ({', '.join(parts)})" if parts else "")
    length = f"{recipe.train.steps:,} steps" if recipe.train.epochs is None else f"{recipe.train.epochs:,} epochs"
    measured = ", ".join(evaluator.label for evaluator in recipe.evaluators) or "nothing"
    return f"{method} on {name['dataset']} with encoder {name['encoder']}, {length}, measured by {measured}"
