"""Encoders: float images in [0, 1] to a feature vector each."""

from typing import TYPE_CHECKING

from metriclab.lazy import exports

if TYPE_CHECKING:
    from metriclab.encoders.features import Features as Features
    from metriclab.encoders.pixels import Pixels as Pixels
    from metriclab.encoders.timm import TimmEncoder as TimmEncoder
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        Features="features",
        Pixels="pixels",
        TimmEncoder="timm",
    )
