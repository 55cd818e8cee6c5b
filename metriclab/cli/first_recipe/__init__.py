"""`metriclab init`: a look at somebody's images -> a recipe for them, with its reasons.

`photos` looks, `text` writes, `command` is the command.
"""

from metriclab.cli.first_recipe.command import init

__all__ = ["init"]
