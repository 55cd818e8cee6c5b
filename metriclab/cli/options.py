"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from metriclab.registry import load_plugin_file

F = TypeVar("F", bound=Callable[..., Any])


def plugin_option(command: F) -> F:
    """Adds `--plugin FILE`, repeatable. The files are imported before the command starts; it is not told of them."""

    def load(ctx: click.Context, parameter: click.Parameter, files: tuple[Path, ...]) -> None:
        for file in files:
            load_plugin_file(file)

    return click.option(
        "--plugin",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FILE",
        callback=load,
        expose_value=False,
        is_eager=True,  # before the arguments, which may name what the file brings
        help="Import a Python file that registers components. Repeatable.",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
