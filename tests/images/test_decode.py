from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from metriclab.images import decode as decoding
from metriclab.images.decode import UnreadableImageError, decode
from tests.support.pictures import picture

RNG = np.random.default_rng(0)


def save(image, path, **options):
    image.save(path, **options)
    return path


def test_pixels_of_a_small_image_come_out_as_they_are(tmp_path):
    pixels = RNG.integers(0, 256, (5, 9, 3), dtype=np.uint8)
    decoded = decode(save(Image.fromarray(pixels), tmp_path / "a.png"), 64)
    assert (decoded == pixels.transpose(2, 0, 1)).all()
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize(
    ("given", "expected"),
    [((100, 50), (32, 16)), ((50, 100), (16, 32)), ((16, 16), (16, 16)), ((10, 12), (10, 12)), ((1000, 10), (64, 1))],
)
def test_the_short_side_shrinks_to_the_size_and_the_long_side_is_bounded(tmp_path, given, expected):
    decoded = decode(save(picture(1, *given), tmp_path / "a.png"), 16)
    assert decoded.shape == (3, expected[1], expected[0])


def test_reducing_averages_and_does_not_pick_single_pixels(tmp_path):
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    decoded = decode(save(Image.fromarray(board.astype(np.uint8)), tmp_path / "a.png"), 16)
    assert np.abs(decoded[:, 2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_a_large_jpeg_is_reduced_to_the_same_size_and_colours(tmp_path):
    y, x = np.mgrid[:900, :1200]
    image = Image.fromarray(np.stack([x // 5, y // 4, (x + y) // 9], axis=-1).astype(np.uint8))
    from_jpeg = decode(save(image, tmp_path / "a.jpg", quality=95), 64)
    from_png = decode(save(image, tmp_path / "a.png"), 64)
    assert from_jpeg.shape == from_png.shape == (3, 64, 85)
    assert np.abs(from_jpeg.astype(int) - from_png).mean() < 2


def test_the_jpeg_decoder_scales_and_gives_nearly_what_reducing_the_whole_image_gives(tmp_path, monkeypatch):
    image = np.zeros((1200, 1600, 3))
    for scale in (4, 16, 64, 1200):
        noise = Image.fromarray(RNG.integers(0, 256, (scale, scale, 3), dtype=np.uint8))
        image += np.asarray(noise.resize((1600, 1200), Image.Resampling.BICUBIC)) / 4
    path, loaded = save(Image.fromarray(image.astype(np.uint8)), tmp_path / "a.jpg", quality=90), []
    load = JpegImageFile.load
    monkeypatch.setattr(JpegImageFile, "load", lambda self: loaded.append(self.size) or load(self))
    scaled = decode(path, 128).astype(int)
    assert loaded[0] == (200, 150)  # an eighth, the smallest scale that has 128 pixels
    with Image.open(path) as whole:
        expected = np.asarray(whole.resize((171, 128), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(scaled - expected).mean() < 1.5
    assert np.abs(scaled - expected).max() < 12


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(tmp_path, orientation, kind):
    upright = np.zeros((24, 40, 3), dtype=np.uint8)
    upright[:12, :20] = (255, 0, 0)
    upright[12:, 20:] = (0, 0, 255)
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud}
    undo |= {5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 8: lambda a: np.rot90(a, -1)}
    undo |= {7: lambda a: np.rot90(a, 2).swapaxes(0, 1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    options = {"quality": 100} if kind in ("jpg", "webp") else {}
    decoded = decode(save(stored, tmp_path / f"a.{kind}", exif=exif, **options), 64).transpose(1, 2, 0)
    assert decoded.shape == upright.shape
    for y, x in ((5, 10), (5, 30), (18, 10), (18, 30)):
        assert np.abs(decoded[y, x].astype(int) - upright[y, x]).max() < 12


def test_16_bits_are_scaled_not_cut(tmp_path):
    values = np.array([[0, 256, 257, 32768, 65535]], dtype=np.uint16).repeat(4, 0)
    for name in ("a.png", "a.tiff"):
        decoded = decode(save(Image.fromarray(values), tmp_path / name), 64)
        assert decoded[:, 0].tolist() == [[0, 1, 1, 128, 255]] * 3


def test_16_bits_a_channel_in_colour(tmp_path):
    rows = b"".join(b"\0" + np.array([[65535, 32768, 0]] * 4, dtype=">u2").tobytes() for _ in range(4))

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (4).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert decode(tmp_path / "a.png", 64)[:, 0, 0].tolist() == [255, 128, 0]


def test_cmyk_palette_grey_and_black_and_white(tmp_path):
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    decoded = decode(save(red.convert("CMYK"), tmp_path / "cmyk.jpg", quality=100), 64)
    assert np.abs(decoded[:, 8, 8].astype(int) - [255, 0, 0]).max() < 8
    palette = red.convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(save(palette, tmp_path / "palette.png"), 64)[:, 8, 8].tolist() == [255, 0, 0]
    grey = Image.new("L", (16, 16), 77)
    assert decode(save(grey, tmp_path / "grey.png"), 64)[:, 8, 8].tolist() == [77, 77, 77]
    assert decode(save(Image.new("1", (16, 16), 1), tmp_path / "bit.png"), 64)[:, 8, 8].tolist() == [255, 255, 255]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_transparent_pixels_are_white_whatever_colour_they_hide(tmp_path):
    hidden = np.zeros((4, 4, 4), dtype=np.uint8)
    hidden[0] = (0, 128, 0, 255)
    decoded = decode(save(Image.fromarray(hidden), tmp_path / "rgba.png"), 64)
    assert decoded[:, 0, 0].tolist() == [0, 128, 0]
    assert decoded[:, 2, 2].tolist() == [255, 255, 255]
    half = Image.new("LA", (4, 4), (0, 128))
    assert np.abs(decode(save(half, tmp_path / "la.png"), 64).astype(int) - 127).max() <= 1
    indexed = Image.new("P", (4, 4), 0)
    indexed.putpalette([9, 9, 9, 200, 0, 0])
    indexed.putpixel((0, 0), 1)
    decoded = decode(save(indexed, tmp_path / "p.png", transparency=b"\x00\xff"), 64)
    assert decoded[:, 0, 0].tolist() == [200, 0, 0]
    assert decoded[:, 2, 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame(tmp_path, kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "webp" else {}
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **options)
    assert decode(tmp_path / f"a.{kind}", 64)[:, 8, 8].tolist() == [250, 0, 0]


def whole(kind):
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello, world\n", "this is no image, or not in a format that can be read"),
        (whole("JPEG")[:1500], "image file is truncated"),
        (whole("PNG")[:1500], "image file is truncated"),
        (whole("GIF")[:1000], "image file is truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "this is no image, or not in a format"),
    ],
    ids=["empty", "text", "jpeg", "png", "gif", "postscript"],
)
def test_what_gives_no_image_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason):
        decode(tmp_path / "a.jpg", 64)


def test_damage_in_the_middle_is_found(tmp_path):
    content = whole("PNG")
    (tmp_path / "a.png").write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    with pytest.raises(UnreadableImageError):
        decode(tmp_path / "a.png", 64)


def test_32_bits_have_no_known_scale(tmp_path):
    image = Image.fromarray(np.ones((4, 4), dtype=np.float32))
    with pytest.raises(UnreadableImageError, match="32 bits a channel have no agreed scale: store it with 8 or 16"):
        decode(save(image, tmp_path / "a.tiff"), 64)


def test_an_image_that_would_fill_the_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MOST_PIXELS", 99)
    with pytest.raises(UnreadableImageError, match="10 x 10 pixels are more than 99"):
        decode(save(picture(0, 10, 10), tmp_path / "a.png"), 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(UnreadableImageError, match="more than 99 pixels"):
        decode(tmp_path / "a.png", 64)


def test_a_file_that_may_not_be_read(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"Is a directory|Permission denied"):
        decode(tmp_path, 64)
