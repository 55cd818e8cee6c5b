"""`metriclab data`: the caches of decoded images."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metriclab.cli.options import plugin_option
from metriclab.core.reading import printable
from metriclab.errors import RecipeError

if TYPE_CHECKING:
    from metriclab.images.files import ImageFiles

_SIZE = 256  # as of the data set `folder`


@click.group()
def data() -> None:
    """Build, list and remove the caches of decoded images.

    They lie in the folder that the environment variable METRICLAB_CACHE names (~/.cache/metriclab without it), and take
    no more than METRICLAB_CACHE_LIMIT (such as 20GB) together. A run builds the cache it needs by itself.
    """


@data.command()
@click.argument("what", metavar="RECIPE|FOLDER", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Change one value of the recipe.")
@click.option("--size", type=click.IntRange(8, 4096), help=f"Short side of the images of FOLDER; {_SIZE} by default.")
@click.option("--skip", is_flag=True, help="Leave out files of FOLDER that give no image.")
@plugin_option
def cache(what: Path, overrides: tuple[str, ...], size: int | None, skip: bool) -> None:
    """Decode all images of a recipe, or of a folder or CSV manifest, so that runs find them decoded.

    What an interrupted call has done is kept: the next one goes on from there.
    """
    of_recipe = what.suffix == ".toml"
    if of_recipe and (size is not None or skip):
        raise RecipeError("--size and --skip are for a folder", help="use --set data.size=... or data.on_error=skip")
    if overrides and not of_recipe:
        raise RecipeError("--set is for a recipe", help="use --size and --skip")
    _decode(_recipe_opener(what, overrides) if of_recipe else _folder_opener(what, size or _SIZE, skip))


def _decode(open_files: Callable[[], ImageFiles | None]) -> None:
    from metriclab.images.cache_files import bytes_text

    started = time.monotonic()
    files = open_files()
    seconds = time.monotonic() - started
    if files is None:
        click.echo("this data set has no image files to decode: there is nothing to cache")
        return
    index = files.index
    lost = f", {index.reduced:,} of them reduced to a short side of {files.size} pixels" if index.reduced else ""
    bad = f", without {len(index.problems):,} that give none" if index.problems else ""
    lacking = f", no room for {int(index.lacking.sum()):,} of them" if index.lacking.any() else ""
    held = f"{bytes_text(index.bytes(index.cached))} in {files.place}{lacking}"
    click.echo(f"{int(index.readable.sum()):,} images{lost}{bad}\n{held}, ready in {seconds:.1f} s")


def _recipe_opener(path: Path, overrides: tuple[str, ...]) -> Callable[[], ImageFiles | None]:
    from metriclab.assembly.splits import load_splits
    from metriclab.core.splits import has_features
    from metriclab.recipe import read_recipe

    recipe = read_recipe(path, overrides)

    def open_files() -> ImageFiles | None:
        data = load_splits(recipe).train
        return None if has_features(data) else getattr(data, "files", None)

    return open_files


def _folder_opener(root: Path, size: int, skip: bool) -> Callable[[], ImageFiles]:
    from metriclab.images.files import ImageFiles, say_once
    from metriclab.images.listing import list_images
    from metriclab.images.manifest import missing_files_first

    files, notes = list_images(root)
    for note in notes:
        say_once(note)

    def open_files() -> ImageFiles:
        with missing_files_first(files):
            return ImageFiles(files.names, size=size, on_error="skip" if skip else "error", place=files.place)

    return open_files


@data.command()
@click.option("--older-than", type=click.FloatRange(0), metavar="DAYS", help="Remove caches not used for so many days.")
@click.option("--all", "everything", is_flag=True, help="Remove all caches.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def clean(older_than: float | None, everything: bool, dry_run: bool) -> None:
    """List the caches, and remove those that --older-than or --all names.

    Nothing is removed that metriclab did not make, nor a cache that is being built. Runs make again what they miss.
    """
    from metriclab.images.cache_files import bytes_text, cache_base
    from metriclab.images.caches import days_since, find_caches, remove_cache

    if everything and older_than is not None:
        raise RecipeError("--all and --older-than cannot go together", help="leave one of them out")
    caches, freed = find_caches(), 0
    if not caches:
        click.echo(f"there is no cache in {cache_base()}")
        return
    for cache in caches:
        chosen = everything or (older_than is not None and days_since(cache.used) >= older_than)
        done = chosen and (dry_run or remove_cache(cache))
        freed += cache.bytes if done else 0
        state = "would go" if done and dry_run else "removed" if done else "in use" if chosen else "kept"
        images = f"{cache.images:,} images of {printable(cache.source)}" if cache.images else cache.kind
        click.echo(
            f"{state:8}  {bytes_text(cache.bytes):>9}  used {datetime.fromtimestamp(cache.used):%Y-%m-%d}  "
            f"{cache.place}  {images}"
        )
    total = bytes_text(sum(cache.bytes for cache in caches))
    if everything or older_than is not None:
        click.echo(f"{bytes_text(freed)} of {total} {'would be ' if dry_run else ''}removed")
    else:
        click.echo(f"{total} in all; remove them with --all, or those not used for a month with --older-than 30")
