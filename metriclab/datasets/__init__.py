"""Data sets: labels known at once, images as padded uint8 batches; each has the splits train, val and test."""

from typing import TYPE_CHECKING

from metriclab.lazy import exports

if TYPE_CHECKING:
    from metriclab.datasets.cars196 import Cars196 as Cars196
    from metriclab.datasets.class_folds import ClassFolds as ClassFolds
    from metriclab.datasets.cub200 import CUB200 as CUB200
    from metriclab.datasets.fabrics import Fabrics as Fabrics
    from metriclab.datasets.fashion_mnist import FashionMNIST as FashionMNIST
    from metriclab.datasets.features import Features as Features
    from metriclab.datasets.folder import Folder as Folder
    from metriclab.datasets.glyphs import Glyphs as Glyphs
    from metriclab.datasets.in_shop import InShop as InShop
    from metriclab.datasets.market1501 import Market1501 as Market1501
    from metriclab.datasets.msmt17 import MSMT17 as MSMT17
    from metriclab.datasets.shards import Shards as Shards
    from metriclab.datasets.sop import StanfordOnlineProducts as StanfordOnlineProducts
    from metriclab.datasets.synthetic import Synthetic as Synthetic
    from metriclab.datasets.torchvision import Torchvision as Torchvision
    from metriclab.datasets.veri776 import VeRi776 as VeRi776
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        Cars196="cars196",
        ClassFolds="class_folds",
        CUB200="cub200",
        Fabrics="fabrics",
        FashionMNIST="fashion_mnist",
        Features="features",
        Folder="folder",
        Glyphs="glyphs",
        InShop="in_shop",
        Market1501="market1501",
        MSMT17="msmt17",
        Shards="shards",
        StanfordOnlineProducts="sop",
        Synthetic="synthetic",
        Torchvision="torchvision",
        VeRi776="veri776",
    )
