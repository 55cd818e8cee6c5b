"""How a network embeds views: what BatchNorm sees together."""

from __future__ import annotations

import pytest
import torch

from metriclab.errors import RecipeError
from metriclab.methods import Supervised
from metriclab.registry import build
from tests.support.small_methods import labelled, network


def views(n: int = 5, count: int = 3) -> list[torch.Tensor]:
    return [torch.randn(n, 3, 4, 4) for _ in range(count)]


@pytest.mark.parametrize("together", [False, True])
def test_batch_norm_sees_views_of_one_size_together_or_each_by_itself(together):
    made, given = network(batch_norm=True), views()
    embedded = made.views(given, together=together)
    expected = made(torch.cat(given)).z.chunk(3) if together else [made(view).z for view in given]
    for found, z in zip(embedded, expected, strict=True):
        torch.testing.assert_close(found.z, z)


def test_one_image_alone_has_no_variance():
    made = network(batch_norm=True)
    text = (
        "BatchNorm takes its statistics of one image alone, which has no variance\n"
        "  help: set sampler.batch_size, and train.chunk where it is used, to more than one image"
    )
    for together in (False, True):
        with pytest.raises(RecipeError) as error:
            made.views(views(1, 1), together=together)
        assert str(error.value) == text
    with pytest.raises(RecipeError, match="of one image alone"):
        Supervised(made, loss=build("loss", "nt-xent"))(labelled((0,)))
    assert len(made.views(views(1, 2))) == 2  # two rows have a variance
    assert len(network(batch_norm=False).views(views(1, 1))) == 1
    assert len(made.eval().views(views(1, 1))) == 1
