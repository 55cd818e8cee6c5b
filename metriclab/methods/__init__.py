"""Methods: ways of training, each what a recipe's table [method] names."""

from typing import TYPE_CHECKING

from metriclab.lazy import exports

if TYPE_CHECKING:
    from metriclab.methods.none import Untrained as Untrained
    from metriclab.methods.simclr import SimCLR as SimCLR
    from metriclab.methods.supervised import Supervised as Supervised
    from metriclab.methods.sxbm import SXBM as SXBM
    from metriclab.methods.xbm import XBM as XBM
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        SXBM="sxbm",
        SimCLR="simclr",
        Supervised="supervised",
        Untrained="none",
        XBM="xbm",
    )
