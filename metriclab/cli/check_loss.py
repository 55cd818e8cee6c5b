"""`metriclab check-loss`."""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metriclab import __version__
from metriclab.errors import RecipeError
from metriclab.registry import suggest

if TYPE_CHECKING:
    from metriclab.testing.any_loss import Finding, Target

_COLOURS = {"ok": "green", "falls short": "bold red", "told": "cyan", "left out": "dim"}


@click.command("check-loss")
@click.argument("loss", metavar="MODULE:NAME|FILE.py:NAME")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An argument of the loss. Repeatable.")
@click.option(
    "--calls",
    type=click.Choice(["labels", "views", "rows"]),
    help="loss(embeddings, labels), loss(first, second), or loss(anchors, labels, references, labels); by default what "
    "its parameters look like.",
)
@click.option("--without", multiple=True, metavar="CHECK", help="Leave out a check, such as several-ranks. Repeatable.")
@click.option("--format", "form", type=click.Choice(["rich", "json"]), default="rich", show_default=True)
def check_loss(loss: str, settings: tuple[str, ...], calls: Any, without: tuple[str, ...], form: str) -> None:
    """Check anybody's loss: what it does with odd rows, precisions and labels, and on 2 and 3 ranks.

    \b
    metriclab check-loss pytorch_metric_learning.losses:CircleLoss --set m=0.4
    metriclab check-loss lightly.loss:NTXentLoss --set gather_distributed=true
    metriclab check-loss my_loss.py:MyLoss

    This imports the module that you name, which runs its code. It ends with 0 where all holds, with 1 where something
    falls short, and with 2 where there is no such loss or it cannot be called. Numbers of classes and dimensions that
    the loss needs are filled in.
    """
    from metriclab.testing.any_loss import CHECKS, Target, Trial, check_any_loss  # imports torch

    names = _checks(without, list(CHECKS))
    module, _, name = loss.rpartition(":")
    place = f"{Path(module).resolve()}:{name}" if module.endswith(".py") else loss
    target = Target(place, _settings(settings), calls)
    trial = Trial.of(target)
    found = list(check_any_loss(trial, without=names))
    if form == "json":
        click.echo(json.dumps(_as_json(target, trial.convention.name, found), indent=2))
    else:
        parts = _header(target, trial.convention.name), _table(found), _verdict(found)
        Console().print(*parts, sep="\n", highlight=False)
    sys.exit(1 if any(one.status == "falls short" for one in found) else 0)


def _settings(options: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key.strip().isidentifier() or not text.strip():
            raise RecipeError(f"--set {option} is not key=value", help="for example --set margin=0.2")
        if key.strip() in settings:
            raise RecipeError(f"'{key.strip()}' is set twice on the command line", help="keep one of them")
        settings[key.strip()] = _value(text.strip())
    return settings


def _value(text: str) -> Any:
    """As Python or TOML has it, both `True` and `true`; what is neither is text."""
    for parse in (ast.literal_eval, lambda text: tomllib.loads(f"value = {text}")["value"]):
        try:
            return parse(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _checks(words: Sequence[str], names: Sequence[str]) -> set[str]:
    known = {name.replace(" ", "-"): name for name in names}
    for word in words:
        if word.replace(" ", "-") not in known:
            help = suggest(word, list(known)) or f"they are {', '.join(known)}"
            raise RecipeError(f"--without {word}: there is no such check", help=help)
    return {known[word.replace(" ", "-")] for word in words}


def _as_json(target: Target, calls: str, found: Sequence[Finding]) -> dict[str, Any]:
    import torch

    settings = {**{name: str(value) for name, value in target.filled.items()}, **target.settings}
    return {
        "loss": target.place,
        "package": target.package,
        "settings": settings,
        "calls": calls,
        "metriclab": __version__,
        "torch": torch.__version__,
        "checks": [asdict(one) for one in found],
    }


def _header(target: Target, calls: str) -> str:
    filled = ", ".join(f"{name} {_plain(value)}" for name, value in target.filled.items())
    settings = ", ".join(f"{name} {value!r}" for name, value in target.settings.items())
    told = [f"{target.place.rpartition('/')[2]} of {target.package}", f"called by {calls}", settings]
    return escape("; ".join([*filter(None, told), *([f"filled in: {filled}"] if filled else [])]))


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, int) else str(len(value))


def _table(found: Sequence[Finding]) -> Table:
    table = Table("check", "result", "by how much, and what a user sees")
    for one in found:
        text = escape(one.text) + (f"\n[dim]{escape(one.seen)}[/]" if one.seen else "")
        table.add_row(one.check, f"[{_COLOURS[one.status]}]{one.status}[/]", text)
    return table


def _verdict(found: Sequence[Finding]) -> str:
    from metriclab.testing.any_loss.findings import Status

    counts = {status: sum(one.status == status for one in found) for status in get_args(Status)}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)
