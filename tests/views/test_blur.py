from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from metriclab.views.blur import blur, gaussian_kernels


@pytest.mark.parametrize(("size", "taps"), [(2, 3), (7, 3), (32, 3), (64, 7), (97, 9), (140, 15)])
def test_each_sample_has_its_own_gaussian(size, taps):
    sigmas = torch.tensor([0.1, 0.6, 1.3, 2.0])
    x = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    ours = blur(x, gaussian_kernels(sigmas, torch.ones(4, dtype=torch.bool), size))
    for image, sigma, result in zip(x, sigmas.tolist(), ours, strict=True):
        theirs = reference.gaussian_blur(image, [taps, taps], [sigma, sigma])
        torch.testing.assert_close(result, theirs, rtol=0, atol=2e-6)


def test_samples_that_are_not_chosen_pass_to_the_bit():
    x = torch.rand(3, 1, 90, 90, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor([False, True, False])
    ours = blur(x, gaussian_kernels(torch.full((3,), 1.5), chosen, 90))
    assert torch.equal(ours[~chosen], x[~chosen])
    assert (ours[1] - x[1]).abs().max() > 0.1


def test_a_constant_image_stays_constant():
    x = torch.full((2, 3, 80, 80), 0.3)
    ours = blur(x, gaussian_kernels(torch.tensor([0.5, 2.0]), torch.tensor([True, True]), 80))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-6)


def test_autocast_does_not_coarsen_it():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    kernels = gaussian_kernels(torch.tensor([0.5, 2.0]), torch.tensor([True, True]), 32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = blur(x, kernels)
    assert torch.equal(ours, blur(x, kernels))


def test_a_single_pixel_has_nothing_to_blur_with():
    x = torch.rand(2, 3, 1, 1)
    assert torch.equal(blur(x, gaussian_kernels(torch.ones(2), torch.ones(2, dtype=torch.bool), 1)), x)


def test_no_weight_is_subnormal():
    # A product with a subnormal number takes many times as long on a CPU.
    sigmas = torch.linspace(0.1, 2.0, 200)
    kernels = gaussian_kernels(sigmas, torch.ones(200, dtype=torch.bool), 224)
    assert ((kernels == 0) | (kernels > 1e-13)).all()
    torch.testing.assert_close(kernels.sum(1), torch.ones(200))
