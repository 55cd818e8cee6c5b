"""The command `metriclab`. A command's module is imported only when that command runs."""

from __future__ import annotations

from metriclab.cli.group import main
from metriclab.cli.options import plugin_option

__all__ = ["main", "plugin_option"]
