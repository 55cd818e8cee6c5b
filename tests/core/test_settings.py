"""`print` shows what a component was told, whatever its kind."""

from __future__ import annotations

import numpy as np
import pytest

from metriclab.encoders import Pixels, TimmEncoder
from metriclab.evaluators import Robustness, Transfer
from metriclab.losses import NTXent
from metriclab.registry import entries, load_component
from metriclab.registry.entry import is_builtin
from metriclab.samplers import Balanced, HardNegatives, Shuffled
from metriclab.trackers import Console, JsonLines
from metriclab.views import (
    MultiCropViews,
    PlainViews,
    RandAugmentViews,
    RetrievalViews,
    SimCLRViews,
    TorchvisionViews,
)

LABELS = np.arange(12) // 4
DATA = {"name": "synthetic", "classes": 6, "per_class": 4}
TRANSFORMS = [{"name": "Resize", "size": [8, 8]}]
TEXTS = {
    Shuffled: "Shuffled(batch_size=4, window=None, drop_last=True)",
    Balanced: "Balanced(classes_per_batch=2, per_class=2, small='skip', across=None)",
    Console: "Console(every=50, show=())",
    JsonLines: "JsonLines()",
    PlainViews: "PlainViews(size=32, count=3, fit='crop')",
    SimCLRViews: "SimCLRViews(count=3, size=32, min_area=0.08, max_area=1.0, flip=0.5, rotation=0.0, colour=1.0, "
    "grayscale=0.2, blur=0.5, solarize=0.0, aspect=(0.75, 1.3333333333333333), shear=0.0, perspective=0.0, "
    "posterize=0.0, equalize=0.0, erase=0.0, second={}, fit='crop')",
    RandAugmentViews: "RandAugmentViews(count=3, size=32, operations=2, magnitude=9.0, min_area=0.08, flip=0.5, "
    "fit='crop')",
    RetrievalViews: "RetrievalViews(count=3, size=32, min_area=0.5, max_area=1.0, aspect=(0.75, 1.3333333333333333), "
    "flip=0.5, erase=0.0, fit='crop')",
    TorchvisionViews: f"TorchvisionViews(transforms={TRANSFORMS!r}, count=3, size=None, second={{}}, fit='crop')",
    MultiCropViews: "MultiCropViews(count=3, size=32, min_area=0.14, max_area=1.0, small_count=4, small_size=16, "
    "small_min_area=0.05, small_max_area=0.14, flip=0.5, rotation=0.0, colour=1.0, grayscale=0.2, blur=0.5, "
    "solarize=0.0, fit='crop')",
    HardNegatives: "HardNegatives(classes_per_batch=2, per_class=2, near=1, every=1, source=None, small='skip')",
    Robustness: "Robustness(evaluator='retrieval', metric='map_at_r', parameters={}, corruptions=('contrast',), "
    "severities=(1, 5))",
    Transfer: f"Transfer(data={DATA!r}, evaluator='retrieval', parameters={{}})",
}


@pytest.fixture
def components(tmp_path):
    kinds = (PlainViews, SimCLRViews, MultiCropViews, RandAugmentViews, RetrievalViews)
    views = [*(kind(count=3) for kind in kinds), TorchvisionViews(count=3, transforms=TRANSFORMS)]
    samplers = [Shuffled(LABELS, batch_size=4), Balanced(LABELS, classes_per_batch=2, per_class=2)]
    samplers.append(HardNegatives(LABELS, classes_per_batch=2, per_class=2, every=1))
    evaluators = [Robustness(corruptions=("contrast",), severities=(1, 5)), Transfer(data=DATA)]
    return [*views, *samplers, *evaluators, Console(tmp_path), JsonLines(tmp_path)]


def test_settings_are_shown(components):
    assert {type(one): repr(one) for one in components} == TEXTS


def test_modules_show_them_beside_their_layers():
    assert repr(Pixels(size=8)) == "Pixels(size=(8, 8), in_chans=3)"
    text = "model='test_resnet', pretrained=False, weights=None, weights_prefix=None, cifar_stem=False, in_chans=1,"
    assert TimmEncoder(model="test_resnet", in_chans=1).extra_repr().startswith(text)


def test_a_setting_that_changes_is_shown_as_it_is():
    loss = NTXent(temperature=0.2)
    loss.temperature = 0.5
    assert repr(loss) == "NTXent(temperature=0.5, learnable_temperature=False)"


def test_every_sampler_tracker_and_view_shows_its_settings():
    for kind in ("sampler", "tracker", "views"):
        classes = {load_component(kind, entry.name).factory for entry in entries(kind) if is_builtin(entry)}
        assert classes <= set(TEXTS)
