"""The eight corruptions: what each does, in loops or by Pillow, and what all have in common."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from metriclab.evaluators.corruptions import CORRUPTIONS

NAMES = sorted(CORRUPTIONS)


def pictures(n: int = 4, channels: int = 3, height: int = 24, width: int = 24) -> torch.Tensor:
    """Smooth colours with an edge, so that blur and JPEG have something to lose."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    phase = torch.rand(n, channels, 1, 1) * 6
    image = 0.5 + 0.3 * torch.sin(x + phase) * torch.cos(y * phase)
    image[..., width // 2 :] += 0.15
    return image.clamp(0, 1)


def changed(name: str, images: torch.Tensor, severity: int, items: torch.Tensor | None = None) -> torch.Tensor:
    items = torch.arange(len(images)) if items is None else items
    return CORRUPTIONS[name](images, items, severity=severity)


@pytest.mark.parametrize("name", NAMES)
class TestEveryCorruption:
    @pytest.mark.parametrize("shape", [(3, 3, 24, 24), (2, 1, 17, 30), (1, 3, 2, 2)])
    def test_images_stay_images(self, name, shape):
        images = torch.rand(shape)
        before = images.clone()
        for severity in range(1, 6):
            result = changed(name, images, severity)
            assert result.shape == images.shape
            assert result.dtype == torch.float32
            assert bool(((result >= 0) & (result <= 1)).all())
        assert torch.equal(images, before)

    def test_more_severe_is_further_from_the_image(self, name):
        images = pictures(8, height=67, width=71)
        away = [float((changed(name, images, s) - images).square().mean().sqrt()) for s in (1, 3, 5)]
        assert 0 < away[0] < away[1] < away[2]

    def test_an_item_is_changed_alike_in_any_batch(self, name):
        images, items = pictures(6), torch.tensor([5, 900, 2, 7, 1, 33])
        whole = changed(name, images, 3, items)
        order = torch.tensor([4, 1, 3])
        torch.testing.assert_close(changed(name, images[order], 3, items[order]), whole[order], rtol=0, atol=1e-6)


def test_noise_has_the_stated_width_and_no_bias():
    grey = torch.full((4, 3, 40, 40), 0.5)
    for severity, deviation in enumerate((0.08, 0.12), 1):
        noise = changed("noise", grey, severity) - grey
        assert float(noise.mean()) == pytest.approx(0, abs=0.005)
        assert float(noise.std()) == pytest.approx(deviation, rel=0.05)
    assert not torch.equal(noise[0], noise[1])


def test_noise_in_parts_is_the_same_noise(monkeypatch):
    from metriclab.evaluators import corruptions as _corruptions

    images = pictures(5)
    whole = changed("noise", images, 2)
    monkeypatch.setattr(_corruptions, "_PART_CELLS", 1)
    assert torch.equal(changed("noise", images, 2), whole)


def test_blur_is_a_mean_weighted_by_a_gaussian():
    image = pictures(1, 1, 40, 40)
    sigma = 6 * 40 / 224
    offsets = range(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)
    weight = {o: math.exp(-0.5 * (o / sigma) ** 2) for o in offsets}
    total = sum(weight.values()) ** 2
    for y, x in ((0, 0), (20, 19), (39, 5)):
        mean = sum(
            weight[i] * weight[j] * float(image[0, 0, min(max(y + i, 0), 39), min(max(x + j, 0), 39)])
            for i in offsets
            for j in offsets
        )
        assert float(changed("blur", image, 5)[0, 0, y, x]) == pytest.approx(mean / total, abs=1e-5)


def test_contrast_moves_pixels_towards_the_mean_of_the_channel():
    image = pictures(1)
    mean = image.mean((2, 3), keepdim=True)
    torch.testing.assert_close(changed("contrast", image, 5), mean + 0.05 * (image - mean))


def test_brightness_raises_the_value_and_keeps_the_hue():
    image = torch.tensor([[0.2, 0.4, 0.1], [0.0, 0.0, 0.0], [0.9, 0.1, 0.5]]).T.reshape(1, 3, 1, 3)
    result = changed("brightness", image, 3)
    for at in range(3):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[0, :, 0, at].tolist())
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.3))
        assert result[0, :, 0, at].tolist() == pytest.approx(list(expected), abs=1e-6)


def test_pixelate_leaves_squares():
    result = changed("pixelate", pictures(1, 1, 24, 24), 5)
    assert result[0, 0, ::4, ::4].numel() == 36
    torch.testing.assert_close(result, result[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))


@pytest.mark.parametrize(("severity", "quality"), [(1, 25), (5, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_a_file(severity, quality, channels):
    pixels = (pictures(1, channels, 40, 48)[0] * 255).round()
    array = pixels.byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if channels == 1 else array).save(file, "jpeg", quality=quality, subsampling=0)
    decoded = torch.from_numpy(np.array(Image.open(file))).float().view(40, 48, channels).permute(2, 0, 1)
    ours = changed("jpeg", pixels[None] / 255, severity)[0] * 255
    assert float((ours - decoded).abs().mean()) < 1.0  # integer arithmetic of the file, on a scale of 255
    assert float((ours - decoded).abs().mean()) < 0.3 * float((pixels - decoded).abs().mean())


def test_rotation_turns_the_middle_by_the_angle():
    size = 65
    across = torch.arange(size) - 32.0
    image = (0.5 + across / 200).repeat(8, 1, size, 1)
    result = changed("rotation", image, 5)[:, 0, 22:43, 22:43]
    turned = []
    for one in result:
        along, down = float((one[:, -1] - one[:, 0]).mean()), float((one[-1] - one[0]).mean())
        turned.append(math.degrees(math.atan2(down, along)))
    assert [abs(angle) for angle in turned] == pytest.approx([30] * 8, abs=0.1)
    assert min(turned) < 0 < max(turned)


def test_occlusion_covers_the_stated_area_at_places_of_its_own():
    images = torch.zeros(20, 3, 40, 40)
    grey = changed("occlusion", images, 5)[:, 0] == 0.5
    assert grey.flatten(1).sum(1).tolist() == [28 * 28] * 20
    assert len({tuple(one.nonzero()[0].tolist()) for one in grey}) > 15
