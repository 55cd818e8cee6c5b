"""`metriclab check-plugin`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metriclab.cli.options import json_option
from metriclab.errors import PluginError, RecipeError
from metriclab.registry import ComponentEntry, load_plugin_file, suggest
from metriclab.registry.entry import normalized
from metriclab.registry.registry import candidates

if TYPE_CHECKING:
    from metriclab.testing.package import Outcome

_LEAST_TEXT = 40


@click.command("check-plugin")
@click.argument("plugin", metavar="NAME")
@click.option("--without", multiple=True, metavar="CHECK", help="Leave out a check, such as gradcheck. Repeatable.")
@json_option
def check_plugin(plugin: str, without: tuple[str, ...], as_json: bool) -> None:
    """Run the conformance kit over every component of NAME, an installed package or a FILE.py, and print a table.

    Each component is built from its defaults; one that needs values is left out, and the table says so. It ends with 1
    if a component is wrong, with 3 if one cannot even be loaded.

    This is a command of its own because `metriclab check` takes the path of a recipe, which may have any name.
    """
    entries = _entries_of(plugin)
    from metriclab.testing.checks import slug
    from metriclab.testing.package import check_entries  # imports torch, which a wrong name does not need

    words = [slug(check) for check in without]
    outcomes = check_entries(entries, without=words)
    seen = list(outcomes) if as_json else list(_printed(outcomes, entries))
    there = sorted({slug(outcome.check) for outcome in seen} - {""})
    for word in words:
        if word not in there:
            near = suggest(word, there)
            click.echo(f"--without {word}: no component here has that check" + (f"; {near}" if near else ""), err=True)
    if as_json:
        click.echo(json.dumps([asdict(outcome) for outcome in seen], indent=2))
    found = {outcome.status for outcome in seen}
    sys.exit(PluginError.exit_code if "broken" in found else 1 if "wrong" in found else 0)


def _entries_of(plugin: str) -> list[ComponentEntry]:
    path = Path(plugin)
    if path.suffix == ".py":
        load_plugin_file(path)
        return [entry for entry in candidates() if entry.version == "file" and entry.package == path.name]
    found = [entry for entry in candidates() if normalized(entry.package) == normalized(plugin)]
    if not found:
        packages = sorted({entry.package for entry in candidates()})
        help = suggest(plugin, packages) or "`metriclab plugins` lists the packages that bring components"
        raise RecipeError(f"no installed package '{plugin}' brings components", help=help)
    return found


def _printed(outcomes: Iterable[Outcome], entries: list[ComponentEntry]) -> Iterable[Outcome]:
    """The same outcomes, each printed as it comes, and at the end how many there were."""
    width = max(len("component"), *(len(str(entry)) for entry in entries))
    counts = dict.fromkeys(("ok", "wrong", "left out", "broken"), 0)
    click.echo(f"{'component':{width}}  {'check':32}result")
    for outcome in outcomes:
        counts[outcome.status] += 1
        click.echo(_line(outcome, width))
        yield outcome
    click.echo(", ".join(f"{count} {status}" for status, count in counts.items() if count))


def _line(outcome: Outcome, width: int) -> str:
    start = f"{outcome.component:{width}}  {outcome.check:32}"
    text = f"{outcome.status}: {outcome.text}" if outcome.text else outcome.status
    room = max(_LEAST_TEXT, shutil.get_terminal_size((160, 24)).columns - len(start))
    return start + click.wrap_text(text, room).replace("\n", "\n" + " " * len(start))
