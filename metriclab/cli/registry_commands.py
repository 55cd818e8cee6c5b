"""`metriclab list`, `metriclab show` and `metriclab plugins`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import click

from metriclab.cli.options import json_option, plugin_option
from metriclab.errors import PluginError
from metriclab.registry import KINDS, ComponentEntry, Definition, entries, load_component
from metriclab.registry.entry import is_builtin
from metriclab.registry.params import Parameter
from metriclab.registry.registry import candidates, load_entry, summary
from metriclab.registry.toml import toml_value

_UNLIMITED = 1000  # columns where there is no terminal: a file or a pipe takes whole sentences


@click.command("list")
@click.argument("kind", required=False, type=click.Choice(list(KINDS)), metavar="[KIND]")
@json_option
@plugin_option
def list_components(kind: str | None, as_json: bool) -> None:
    """List the components that a recipe can name, all or those of one KIND, with what each is. Nothing is imported.

    \b
    The kinds: dataset, views, sampler, encoder, head, loss, miner, memory,
    method, optimizer, schedule, evaluator, tracker.
    """
    found = entries(kind)
    if as_json:
        click.echo(json.dumps([{**asdict(entry), "summary": summary(entry)} for entry in found], indent=2))
        return
    names = {entry: _name(entry, found) for entry in found}
    width = max(map(len, names.values()), default=0)
    columns = shutil.get_terminal_size((_UNLIMITED, 24)).columns
    for name, group in groupby(found, key=lambda entry: entry.kind):
        click.echo(f"{name}  {KINDS[name].header}")
        for entry in group:
            source = "" if is_builtin(entry) else f"({entry.source})"
            line = f"  {names[entry]:{width}}  {' '.join(filter(None, [summary(entry), source]))}".rstrip()
            click.echo(line if len(line) <= columns else f"{line[: columns - 3]}...")


@click.command()
@click.argument("kind", type=click.Choice(list(KINDS)), metavar="KIND")
@click.argument("name")
@json_option
@plugin_option
def show(kind: str, name: str, as_json: bool) -> None:
    """Show the component NAME of a KIND: what it is, its parameters, and its table in a recipe."""
    definition = load_component(kind, name)
    click.echo(json.dumps(_as_dict(definition), indent=2) if as_json else _as_text(definition), nl=as_json)


@click.command()
@json_option
@plugin_option
def plugins(as_json: bool) -> None:
    """List the packages that bring components. Imports every component, and says of each whether it works."""
    packages = [_health(list(group)) for _, group in groupby(candidates(), key=lambda entry: entry.package)]
    if as_json:
        click.echo(json.dumps(packages, indent=2))
        return
    for package in packages:
        click.echo(f"{package['package']} {package['version']}: {package['status']}")
        for component in package["components"]:
            click.echo(f"  {component['kind']} {component['name']}: {component['status']}")
            if component["error"]:
                click.echo("".join(f"    {line}\n" for line in component["error"].splitlines()), nl=False)


def _name(entry: ComponentEntry, others: Sequence[ComponentEntry]) -> str:
    """The name that a recipe must use: with the package in front where two bring one."""
    same = [other for other in others if (other.kind, other.name) == (entry.kind, entry.name)]
    return entry.name if len(same) == 1 else f"{entry.package}:{entry.name}"


def _health(of_package: list[ComponentEntry]) -> dict[str, Any]:
    components = [_health_of(entry) for entry in of_package]
    broken = any(component["error"] for component in components)
    return {
        "package": of_package[0].package,
        "version": of_package[0].version,
        "status": "broken" if broken else "ok",
        "components": components,
    }


def _health_of(entry: ComponentEntry) -> dict[str, Any]:
    error = None
    try:
        load_entry(entry)
    except PluginError as problem:
        error = str(problem)
    status = "ok" if error is None else "broken"
    return {"kind": entry.kind, "name": entry.name, "target": entry.target, "status": status, "error": error}


def _as_dict(definition: Definition) -> dict[str, Any]:
    entry = definition.entry
    return {
        **asdict(entry),
        "summary": definition.summary,
        "paper": definition.paper or None,
        "given": list(definition.given),
        "parameters": [
            {
                "name": parameter.name,
                "type": parameter.type_text,
                "required": parameter.required,
                "default": None if parameter.required else parameter.default,
                "help": parameter.help or None,
            }
            for parameter in definition.parameters
        ],
        "components": [asdict(component) for component in definition.components.values()],
        "snippet": definition.snippet(),
    }


def _as_text(definition: Definition) -> str:
    entry = definition.entry
    lines = [f"{entry} of {entry.source}", f"  {entry.target}"]
    if definition.summary:
        lines += ["", *_wrapped(definition.summary)]
    if definition.paper:
        lines += ["", *_wrapped(f"Paper: {definition.paper}")]
    if definition.parameters:
        lines += ["", "Parameters:"]
        for parameter in definition.parameters:
            lines += [f"  {parameter.name}: {parameter.type_text}{_default(parameter)}"]
            lines += _wrapped(parameter.help, "      ")
    if definition.given:
        lines += ["", f"The run gives: {', '.join(definition.given)}"]
    return "\n".join([*lines, "", definition.snippet()])


def _default(parameter: Parameter) -> str:
    if parameter.required:
        return ", required"
    return ", not set by default" if parameter.default is None else f" = {toml_value(parameter.default)}"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return click.wrap_text(text, 100, indent, indent).splitlines() if text else []
