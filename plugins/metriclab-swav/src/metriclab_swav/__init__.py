"""SwAV for metriclab."""

from __future__ import annotations

from metriclab_swav.swav import SwAV

__all__ = ["SwAV"]
