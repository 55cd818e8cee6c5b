"""The command `metriclab new-plugin`."""

from __future__ import annotations

from pathlib import Path

import click

from metriclab.cli.new_plugin.package import CREATED, plan, write


@click.command("new-plugin")
@click.argument("name")
@click.option("--kind", type=click.Choice(CREATED), required=True, help="What the package brings.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to write it, a folder not there yet; metriclab-NAME here."
)
def new_plugin(name: str, kind: str, folder: Path | None) -> None:
    """Write an installable package that brings the component NAME, which works as it is and waits for its formula."""
    plugin = plan(name, kind)
    folder = folder or Path(plugin.package)
    paths = write(plugin, folder)
    component = next(path for path in paths if path.name == "__init__.py")
    click.echo(f"{folder}: the {kind} '{plugin.name}' in {component.relative_to(folder)} is an example to replace")
    click.echo(f'  pip install -e "{folder}[test]"')
    click.echo(f"  pytest {folder}")
    click.echo(f"  metriclab run {folder / 'recipe.toml'}")
