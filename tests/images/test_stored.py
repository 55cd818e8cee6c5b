"""Images of any number of channels and of 16 bits: decoded, cached, told where they are reduced or differ."""

from __future__ import annotations

import logging
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from metriclab.errors import DataError
from metriclab.images.decode import UnreadableImageError, decode
from metriclab.images.files import ImageFiles, say_once
from metriclab.images.index import Index
from metriclab.images.listing import list_images

RNG = np.random.default_rng(0)


def deep(*shape, dtype="uint16"):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def png_of_16_bits(path, array):
    """A PNG written here, as no library at hand writes 16 bits of colour; rows are filtered in each of the ways."""
    height, width = array.shape[:2]
    big = array.astype(">u2").reshape(height, -1).view(np.uint8).astype(np.int64)
    bytes_of_pixel = big.shape[1] // width

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    rows = []
    for y, row in enumerate(big):
        left = np.concatenate([np.zeros(bytes_of_pixel, np.int64), row[:-bytes_of_pixel]])
        above = big[y - 1] if y else np.zeros_like(row)
        taken = {0: 0, 1: left, 2: above, 3: (left + above) // 2}[y % 4]
        rows.append(bytes([y % 4]) + ((row - taken) % 256).astype(np.uint8).tobytes())
    kind = {2: 0, 4: 4, 6: 2, 8: 6}[bytes_of_pixel]
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, kind, 0, 0, 0])
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def tiff(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path


def npy(path, array):
    with path.open("wb") as file:
        np.save(file, array)
    return path


STORED = {
    "pages": (lambda p, a: tiff(p / "a.tif", a, photometric="minisblack"), (5, 9, 8), "uint16"),
    "pages of 8 bits": (lambda p, a: tiff(p / "a.tif", a, photometric="minisblack"), (5, 9, 8), "uint8"),
    "bands": (lambda p, a: tiff(p / "a.tif", a.transpose(1, 2, 0), planarconfig="contig"), (5, 9, 8), "uint16"),
    "planes": (lambda p, a: tiff(p / "a.tif", a, planarconfig="separate"), (6, 9, 8), "uint8"),
    "two bands": (lambda p, a: tiff(p / "a.tif", a.transpose(1, 2, 0), planarconfig="contig"), (2, 9, 8), "uint8"),
    "colours and more": (
        lambda p, a: tiff(p / "a.tif", a.transpose(1, 2, 0), photometric="rgb", extrasamples=[0, 0]),
        (5, 9, 8),
        "uint8",
    ),
    "colour pages": (
        lambda p, a: tiff(p / "a.tif", a.reshape(2, 3, 9, 8).transpose(0, 2, 3, 1), photometric="rgb"),
        (6, 9, 8),
        "uint8",
    ),
    "colours of 16 bits": (
        lambda p, a: tiff(p / "a.tif", a.transpose(1, 2, 0), photometric="rgb", byteorder=">"),
        (3, 9, 8),
        "uint16",
    ),
    "deflated": (
        lambda p, a: tiff(p / "a.tif", a, photometric="minisblack", compression="zlib"),
        (4, 9, 8),
        "uint16",
    ),
    "big tiff": (lambda p, a: tiff(p / "a.tif", a, photometric="minisblack", bigtiff=True), (4, 9, 8), "uint16"),
    "grey tiff": (lambda p, a: tiff(p / "a.tif", a[0]), (1, 9, 8), "uint16"),
    "grey png": (lambda p, a: png_of_16_bits(p / "a.png", a[0]), (1, 9, 8), "uint16"),
    "colour png": (lambda p, a: png_of_16_bits(p / "a.png", a.transpose(1, 2, 0)), (3, 9, 8), "uint16"),
    "array": (lambda p, a: npy(p / "a.npy", a.transpose(1, 2, 0)), (4, 9, 8), "uint16"),
    "array, channels first": (lambda p, a: npy(p / "a.npy", a), (4, 9, 8), "uint8"),
    "array of another order": (lambda p, a: npy(p / "a.npy", a[0].astype(">u2")), (1, 9, 8), "uint16"),
    "grey array": (lambda p, a: npy(p / "a.npy", a[0]), (1, 9, 8), "uint8"),
}


@pytest.mark.parametrize("kind", STORED)
def test_the_channels_and_bits_of_a_file_come_out_of_the_cache_as_they_are(kind, tmp_path, cache):
    write, shape, dtype = STORED[kind]
    values = deep(*shape, dtype=dtype)
    path = write(tmp_path, values)
    for _ in range(2):  # decoded, then cached
        images = ImageFiles([path], size=64, pixels="stored").images(np.arange(1))
        assert images.pixels.numpy().dtype == dtype
        assert np.array_equal(images.pixels.numpy()[0], values)
    assert images.white == np.iinfo(dtype).max


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_each_channel_is_reduced_by_itself(dtype, tmp_path):
    values = deep(3, 40, 32, dtype=dtype)
    decoded = decode(npy(tmp_path / "a.npy", np.concatenate([values, values[::-1]])), 16, "stored")
    assert decoded.shape == (6, 20, 16)
    assert np.array_equal(decoded[:3], decoded[:2:-1])
    expected = np.asarray(Image.fromarray(values[1].astype(np.float32)).resize((16, 20), Image.Resampling.BICUBIC))
    assert np.abs(decoded[1] - expected.clip(0, np.iinfo(dtype).max)).max() <= 0.51


def test_plain_files_have_one_channel_or_three(tmp_path):
    colours, grey = deep(9, 8, 3, dtype="uint8"), deep(9, 8, dtype="uint8")
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "b.png")
    Image.fromarray(grey).convert("LA").save(tmp_path / "c.png")
    assert np.array_equal(decode(tmp_path / "a.png", 64, "stored"), colours.transpose(2, 0, 1))
    assert np.array_equal(decode(tmp_path / "b.png", 64, "stored"), grey[None])
    assert np.array_equal(decode(tmp_path / "c.png", 64, "stored"), grey[None])


def test_transparency_of_16_bits_lies_on_white(tmp_path):
    values = deep(4, 9, 8)
    expected = (values[:3] * (values[3] / 65535) + 65535 - values[3]).round()
    for path in (
        png_of_16_bits(tmp_path / "a.png", values.transpose(1, 2, 0)),
        tiff(tmp_path / "a.tif", values.transpose(1, 2, 0), photometric="rgb", extrasamples=[2]),
    ):
        assert np.abs(decode(path, 64, "stored") - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_stand_upright_as_colours_do(orientation, tmp_path):
    values = deep(20, 16, 3, dtype="uint8")
    tag = [(274, "H", 1, orientation, True)]
    colours = tiff(tmp_path / "a.tif", values, photometric="rgb", extratags=tag)
    bands = tiff(
        tmp_path / "b.tif", values[..., [0, 1, 2, 0, 1]], photometric="rgb", extrasamples=[0, 0], extratags=tag
    )
    assert np.array_equal(decode(bands, 64, "stored")[:3], decode(colours, 64))


def test_white_is_zero_where_a_file_says_so(tmp_path):
    values = deep(3, 9, 8)
    path = tiff(tmp_path / "a.tif", values, photometric="miniswhite")
    assert np.array_equal(decode(path, 64, "stored"), 65535 - values)
    for compression in (None, "deflate"):
        grey = tiff(tmp_path / "b.tif", values[0], photometric="miniswhite", compression=compression)
        assert np.array_equal(decode(grey, 64, "stored"), 65535 - values[:1])
        assert np.array_equal(decode(grey, 64)[0], ((65535 - values[0].astype(int)) + 128) // 257)
    eight = tiff(tmp_path / "c.tif", (values[0] >> 8).astype(np.uint8), photometric="miniswhite")
    assert np.array_equal(decode(eight, 64)[0], 255 - (values[0] >> 8))


REFUSED = {
    "float": (lambda p: npy(p, np.zeros((3, 8, 8), np.float32)), "float32 values have no agreed scale"),
    "flat": (lambda p: npy(p, np.zeros(8, np.uint8)), r"an array of shape \(8,\) is no image: it has \(h, w\)"),
    "empty": (lambda p: npy(p, np.zeros((0, 8), np.uint8)), r"an array of shape \(0, 8\) is no image"),
    "cut": (lambda p: (npy(p, deep(9, 8)), p.write_bytes(p.read_bytes()[:-9])), "it is cut short or damaged"),
    "no header": (lambda p: p.write_bytes(b"\x93NUMPY\x01"), "no .npy file that is whole"),
    "float pages": (lambda p: tifffile.imwrite(p, np.zeros((5, 8, 8), np.float32)), "float32 values have no agreed"),
    "two kinds": (
        lambda p: [tifffile.imwrite(p, deep(*shape), append=True) for shape in ((9, 8), (8, 9))],
        "its pages are of 2 sizes or kinds",
    ),
    "grey and see-through": (lambda p: png_of_16_bits(p, deep(9, 8, 2)), "its 16 bits a channel cannot be kept"),
    "ppm": (lambda p: p.write_bytes(b"P6 2 2 65535\n" + bytes(24)), "its 16 bits a channel cannot be kept"),
    "huge": (
        lambda p: p.write_bytes(b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, "
                                b"'shape': (99999, 99999), }".ljust(117) + b"\n"),
        "has more than 178,956,970 pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_kept_is_refused_with_the_reason(kind, tmp_path):
    write, reason = REFUSED[kind]
    write(tmp_path / "a")
    with pytest.raises(UnreadableImageError, match=reason):
        decode(tmp_path / "a", 64, "stored")


def test_without_its_extra_a_tiff_says_which(tmp_path, monkeypatch):
    path = tiff(tmp_path / "a.tif", deep(5, 9, 8))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UnreadableImageError, match=r"read by tifffile: pip install 'metriclab-toolkit\[tiff\]'"):
        decode(path, 64, "stored")
    with pytest.raises(UnreadableImageError, match=r'where its bands are channels, set data.pixels = "stored"'):
        decode(tiff(tmp_path / "b.tif", deep(9, 8, 5), planarconfig="contig"), 64)


LOST = {
    "16 bits a channel": lambda p: png_of_16_bits(p / "a.png", deep(9, 8, 3)),
    "pages after the first": lambda p: tiff(p / "a.tif", deep(5, 9, 8, dtype="uint8"), photometric="minisblack"),
    "16 bits a channel and pages after the first": lambda p: tiff(p / "a.tif", deep(5, 9, 8), photometric="minisblack"),
    "bands beside the colours": lambda p: tiff(
        p / "a.tif", deep(9, 8, 5, dtype="uint8"), photometric="rgb", extrasamples=[0, 0]
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_what_rgb_loses_is_told_also_of_what_was_cached_before_it_was(what, tmp_path, cache, caplog):
    paths = [LOST[what](tmp_path), tmp_path / "b.png"]
    Image.fromarray(deep(9, 8, 3, dtype="uint8")).save(paths[1])
    told = (
        f"1 of 2 images lose {what} in RGB of 8 bits, first {paths[0]}; "
        'data.pixels = "stored" keeps the channels and bits of the files'
    )
    for _ in range(2):
        say_once.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            files = ImageFiles(paths, size=64)
        assert told in caplog.messages
        assert files.images(np.arange(2)).pixels.shape == (2, 3, 9, 8)
        forget_formats(files.place)


def forget_formats(place):
    """The index as it was written before there were other formats than RGB of 8 bits."""
    with np.load(place) as archive:
        arrays = {name: archive[name] for name in archive if name not in ("formats", "lossy", "losses")}
    np.savez(place, **arrays)


def test_what_was_cached_before_is_not_decoded_again(tmp_path, cache, monkeypatch):
    paths = [tmp_path / "a.jpg", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(deep(9, 8, 3, dtype="uint8")).save(path)
    before = ImageFiles(paths, size=64)
    forget_formats(before.place)
    monkeypatch.setattr("metriclab.images.build.open_upright", lambda *_: pytest.fail("it is decoded again"))
    after = ImageFiles(paths, size=64)
    assert np.array_equal(before.images(np.arange(2)).pixels, after.images(np.arange(2)).pixels)
    assert Index.read(after.place).lost == {}  # and not asked again


def test_images_that_differ_in_channels_or_bits_are_named(tmp_path, cache):
    one = tiff(tmp_path / "a.tif", deep(5, 9, 8), photometric="minisblack")
    Image.fromarray(deep(9, 8, 3, dtype="uint8")).save(tmp_path / "b.png")
    with pytest.raises(DataError) as caught:
        ImageFiles([one, tmp_path / "b.png"], size=64, pixels="stored")
    assert caught.value.message == (
        f"{one} has 5 channels of 16 bits, and {tmp_path / 'b.png'} has 3 channels of 8 bits: images of one data set "
        "have the same channels and bits"
    )
    assert caught.value.help == (
        'convert the ones or the others, or set data.pixels = "rgb" to make RGB of 8 bits of all'
    )


def test_arrays_are_images_only_where_files_stay_as_stored(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        npy(tmp_path / name / "1.npy", deep(9, 8))
        Image.new("L", (8, 8)).save(tmp_path / name / "2.png")
    assert [file.key for file in list_images(tmp_path).files] == ["a/2.png", "b/2.png"]
    assert len(list_images(tmp_path, pixels="stored").files) == 4
