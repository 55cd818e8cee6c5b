"""Views: augmentation of whole batches on their device, each image with random numbers of its own."""

from typing import TYPE_CHECKING

from metriclab.lazy import exports

if TYPE_CHECKING:
    from metriclab.views.multi_crop import MultiCropViews as MultiCropViews
    from metriclab.views.plain import PlainViews as PlainViews
    from metriclab.views.randaugment import RandAugmentViews as RandAugmentViews
    from metriclab.views.retrieval import RetrievalViews as RetrievalViews
    from metriclab.views.simclr import SimCLRViews as SimCLRViews
    from metriclab.views.torchvision import TorchvisionViews as TorchvisionViews
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        MultiCropViews="multi_crop",
        PlainViews="plain",
        RandAugmentViews="randaugment",
        RetrievalViews="retrieval",
        SimCLRViews="simclr",
        TorchvisionViews="torchvision",
    )
