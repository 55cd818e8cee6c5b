"""`metriclab new-plugin`: an installable package with a component that works, whose formula its author replaces."""

from __future__ import annotations

from metriclab.cli.new_plugin.command import new_plugin

__all__ = ["new_plugin"]
