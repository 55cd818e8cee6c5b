"""The command `metriclab init`."""

from __future__ import annotations

from pathlib import Path

import click

from metriclab.cli.options import plugin_option
from metriclab.core.reading import printable
from metriclab.errors import StorageError


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("recipe.toml"), show_default=True)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@plugin_option
def init(photos: Path, out: Path, force: bool) -> None:
    """Look at PHOTOS, a folder of images or a CSV manifest, and write a recipe that fine-tunes an encoder on them.

    Nothing is asked, and no image is decoded: how many images, classes and splits there are, and how large the images
    are, decides on the settings, and each stands in the recipe with its reason.
    """
    # Imported here, as they import torch.
    from metriclab.cli.first_recipe.photos import look
    from metriclab.cli.first_recipe.text import recipe_text

    if out.exists() and not force:
        raise StorageError(f"{out} is there already", help="name another file by --out, or write over it by --force")
    seen = look(photos)
    text = recipe_text(seen)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, "utf-8")
    except OSError as error:
        raise StorageError(f"{out}: cannot be written ({error.strerror})", help="name another file by --out") from error
    classes = f"{seen.classes:,} classes" if seen.classes else "no classes"
    click.echo(f"{printable(str(seen.root))}: {seen.images:,} images, {classes}; {seen.why}")
    click.echo(f"{printable(str(out))} is a recipe for them, with its reasons; the run is")
    click.echo(f"  metriclab run {out}")
