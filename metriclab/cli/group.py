"""The group of all commands, and how expected errors are shown."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

import click

from metriclab import __version__
from metriclab.errors import MetriclabError
from metriclab.registry.entry import NO_PLUGINS

COMMANDS = {
    "init": ("metriclab.cli.first_recipe:init", "Look at a folder of images and write a recipe for them."),
    "run": ("metriclab.cli.run_commands:run", "Train and measure what a recipe describes."),
    "check": ("metriclab.cli.recipe_commands:check", "Check a recipe, and with --data its data, without running it."),
    "data": ("metriclab.cli.data_commands:data", "Decode images ahead of runs; list and remove such caches."),
    "compare": ("metriclab.cli.compare_commands:compare", "Compare runs, or run a suite of them and compare it."),
    "embed": ("metriclab.cli.run_commands:embed", "Embed images with the encoder of a run."),
    "measure": ("metriclab.cli.measure_command:measure", "Measure embeddings that you already have."),
    "report": ("metriclab.cli.report_commands:report", "Write a page about a run, or several, as one HTML file."),
    "list": ("metriclab.cli.registry_commands:list_components", "List the components that recipes can name."),
    "show": ("metriclab.cli.registry_commands:show", "Show a component: parameters, defaults, source, paper."),
    "plugins": (
        "metriclab.cli.registry_commands:plugins",
        "List the packages that bring components.",
    ),
    "new-plugin": (
        "metriclab.cli.new_plugin:new_plugin",
        "Write an installable package with a component of your own.",
    ),
    "check-plugin": ("metriclab.cli.check_plugin:check_plugin", "Run the conformance kit over what a package brings."),
    "check-loss": ("metriclab.cli.check_loss:check_loss", "Check anybody's loss: odd rows, precisions, several ranks."),
    "schema": ("metriclab.cli.recipe_commands:schema", "Print the JSON Schema of recipes, for editors."),
}
"""Name -> where the command is, and its line of help."""

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that knows its commands by table, and ends with the exit code of the error it meets."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MetriclabError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group("metriclab", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="metriclab")
@click.option("--no-plugins", is_flag=True, help=f"Only built-in components exist; so does {NO_PLUGINS}=1.")
@click.pass_context
def main(ctx: click.Context, no_plugins: bool) -> None:
    """Metric learning assembled from recipes and measured by one harness."""
    show_messages()
    if no_plugins:
        _switch_plugins_off(ctx)


def show_messages() -> None:
    """Sends what metriclab has to say (images decoded, images left out) to standard error."""
    logger = logging.getLogger("metriclab")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _switch_plugins_off(ctx: click.Context) -> None:
    """By the environment, which the runs that a command starts inherit. It is as it was once the command has ended."""
    before = os.environ.get(NO_PLUGINS)

    def restore() -> None:
        if before is None:
            del os.environ[NO_PLUGINS]
        else:
            os.environ[NO_PLUGINS] = before

    os.environ[NO_PLUGINS] = "1"
    ctx.call_on_close(restore)
