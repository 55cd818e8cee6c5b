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


def test_the_kernel_is_the_papers_tenth_of_the_image():
    # SimCLR's data_util.py and BYOL's augmentations.py: 2 int(size / 10 / 2) + 1 taps, none below 20 pixels.
    for side in (20, 32, 39, 40, 59, 60, 96, 224):
        kernels = gaussian_kernels(torch.ones(1), torch.ones(1, dtype=torch.bool), side)
        assert kernels.shape[1] == 2 * int(side / 10 / 2) + 1


@pytest.mark.parametrize("side", [8, 32, 39, 40])
def test_three_taps_act_as_a_sigma_of_four_fifths_at_most(side):
    (kernel,) = gaussian_kernels(torch.tensor([2.0]), torch.ones(1, dtype=torch.bool), side).double()
    offsets = torch.arange(len(kernel)) - len(kernel) // 2
    assert float((kernel * offsets**2).sum().sqrt()) == pytest.approx(0.8 if side < 40 else 1.29, abs=0.01)


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
