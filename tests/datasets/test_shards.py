"""Tar files in the layout of webdataset, and what can be wrong with them."""

from __future__ import annotations

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch

from metriclab.datasets import Folder, Shards
from metriclab.errors import DataError
from metriclab.images import shards as images_shards
from metriclab.images.caches import find_caches
from metriclab.samplers import Shuffled
from metriclab.testing import component_checks
from metriclab.training.interruption import Interrupted
from tests.support.pictures import picture
from tests.support.tiny import outcome, run, tiny


def png(number):
    buffer = io.BytesIO()
    picture(number).save(buffer, "png")
    return buffer.getvalue()


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            data = content if isinstance(content, bytes) else str(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(number, label, **more):
    key = f"{number:06}"
    told = {"species": {"name": f"s{label}", "rank": 3}, "camera": f"c{number % 2}"}
    members = {"png": png(number), "cls": label, "json": json.dumps(told), "txt": f"class {label}\n", **more}
    return [(f"{key}.{ending}", content) for ending, content in members.items() if content is not None]


@pytest.fixture
def root(tmp_path, cache):
    """Two shards of a split of 12 samples, of classes 2 and 10, whose order as text is another one."""
    for place, split in enumerate(("train", "val", "test")):
        for part in range(2):
            numbers = [12 * place + 6 * part + step for step in range(6)]
            shard(
                tmp_path / "data" / split / f"{part}.tar",
                [member for number in numbers for member in sample(number, (2, 10)[number % 2])],
            )
    return tmp_path / "data"


def test_samples_have_their_numbers_classes_and_pixels(root):
    data = Shards("val", root=str(root))
    assert data.classes == ["2", "10"]
    assert data.labels.tolist() == [0, 1] * 6
    assert data.names[7] == f"{root}/val/1.tar/000019.png"
    images = data.images(np.array([7, 0]))
    for row, number in enumerate((19, 12)):
        assert np.array_equal(images.pixels[row].numpy(), np.asarray(picture(number)).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("where", "classes"),
    [("txt", ["class 10", "class 2"]), ("json.species.name", ["s10", "s2"]), ("json.camera", ["c0", "c1"])],
)
def test_classes_by_other_members(where, classes, root):
    assert Shards("train", root=str(root), label=where).classes == classes


def test_it_keeps_what_every_data_set_keeps(root):
    for check in component_checks("dataset", "shards", {"root": str(root)}):
        check.run()


def test_groups_and_categories(root):
    data = Shards("train", root=str(root), group="json.camera", category="json.species.rank")
    assert data.groups.tolist() == [0, 1] * 6
    assert data.categories.tolist() == [0] * 12


def test_the_folder_of_a_shard_is_its_class_and_splits_are_carved_out(tmp_path, cache):
    for place, label in enumerate(("cat", "dog")):
        members = [member for step in range(10) for member in sample(10 * place + step, 0, cls=None)]
        shard(tmp_path / "data" / label / "0.tar", members)
    splits = [Shards(split, root=str(tmp_path / "data"), label="folder") for split in ("train", "val", "test")]
    counts = [len(data.labels) for data in splits]
    assert sum(counts) == 20
    assert min(counts) >= 4
    assert all(data.classes == ["cat", "dog"] for data in splits)
    assert all("cat/0.tar" in data.names[row] for data in splits for row in np.flatnonzero(data.labels == 0))


@pytest.mark.parametrize("label", ["cls", "folder"])
@pytest.mark.parametrize(
    ("other", "text", "help"),
    [
        ("validation/0.tar", "there is a folder 'validation' beside 'train'",
            "folders of splits are named train, val, test: rename it or move it elsewhere"),
        ("0.tar", "the shard '0.tar' lies beside the folder 'train'",
            "move it into the folder of a split, or elsewhere"),
    ],
)  # fmt: skip
def test_what_lies_beside_the_splits_is_refused(other, text, help, label, root):
    shard(root / other, sample(90, 2) + sample(91, 10))
    with pytest.raises(DataError) as caught:
        Shards("train", root=str(root), label=label)
    assert (caught.value.message, caught.value.help) == (f"{root}: {text}", help)


def test_images_to_measure_on_are_never_trained_on_without_a_folder_train(root):
    shutil.rmtree(root / "val")
    (root / "train").rename(root / "training")
    with pytest.raises(DataError, match="there is a folder 'training' beside 'test'"):
        Shards("train", root=str(root))
    shutil.rmtree(root / "training")
    with pytest.raises(DataError, match="the split 'train' has no image"):
        Shards("train", root=str(root), val=0)


def test_a_class_may_be_called_train(tmp_path, cache):
    for place, label in enumerate(("train", "plane")):
        shard(tmp_path / label / "0.tar", [part for step in range(8) for part in sample(10 * place + step, 0)])
    assert Shards("train", root=str(tmp_path), label="folder", val=0).classes == ["plane", "train"]


def test_classes_of_odd_digits(tmp_path, cache):
    path = shard(tmp_path / "0.tar", [part for step in range(8) for part in sample(step, 0, txt="²1"[step % 2])])
    assert Shards("train", root=str(path), label="txt", val=0).classes == ["1", "²"]


@pytest.mark.parametrize("type", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_in_a_shard_are_told(type, tmp_path, cache):
    path = shard(tmp_path / "0.tar", WHOLE)
    with tarfile.open(path, "a") as tar:
        for name in ("000002.png", "latest"):  # of which one has the ending of a sample's member
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type, "000000.png"
            tar.addfile(info)
    with pytest.raises(DataError) as caught:
        Shards("train", root=str(path), label="")
    assert caught.value.message == f"{path}: the member '000002.png' is a link: its bytes are not in its place"
    assert caught.value.help == (
        "write the shard again with files that are whole in it, as `tar --dereference --hard-dereference` does"
    )


def test_a_file_and_a_member_of_the_same_bytes_are_one_in_the_cache(root, tmp_path, monkeypatch):
    for number in range(12):
        place = tmp_path / "files/train" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(number))
    files = Folder("train", root=str(tmp_path / "files"), val=0, test=0)
    for split in ("val", "test"):
        for number in range(2):
            (root / split / f"{number}.tar").unlink()
    monkeypatch.setattr("metriclab.images.build.open_upright", lambda *_: pytest.fail("it is decoded again"))
    data = Shards("train", root=str(root), val=0, test=0)
    order = [files.names.index(f"{tmp_path}/files/train/{'ab'[number % 2]}/{number}.png") for number in range(12)]
    assert torch.equal(data.images(np.arange(12)).pixels, files.images(np.array(order)).pixels)


def test_shards_are_looked_through_once_until_one_changes(root, monkeypatch):
    seen, scan = [], images_shards._scan
    monkeypatch.setattr(images_shards, "_scan", lambda path, *rest: seen.append(path.name) or scan(path, *rest))
    first = Shards("train", root=str(root))
    assert len(seen) == 6
    again = Shards("train", root=str(root))
    assert len(seen) == 6
    assert (first.names, first.fingerprint) == (again.names, again.fingerprint)
    shard(root / "train/0.tar", sample(900, 2) + sample(901, 10))
    assert len(Shards("train", root=str(root)).labels) == 8
    assert len(seen) == 7
    assert sum(cache.kind == "shards" for cache in find_caches()) == 7


def test_a_damaged_index_is_made_again(root, cache):
    before = Shards("train", root=str(root)).names
    for index in (cache / "shards").glob("*.npz"):
        index.write_bytes(index.read_bytes()[:100])
    assert Shards("train", root=str(root)).names == before


def cut(path):
    path.write_bytes(path.read_bytes()[: 512 + 100])


def spoil(path):
    """The header of the second sample's image."""
    content = bytearray(path.read_bytes())
    at = content.index(b"000001.png")
    content[at + 148 : at + 156] = b"xxxxxxxx"
    path.write_bytes(content)


def joined(path):
    path.write_bytes(path.read_bytes() * 2)


def without_end(path):
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512))


WHOLE = [*sample(0, 2), *sample(1, 10)]
WRONG = {
    "no label": ([*sample(0, 2), *sample(1, 10, cls=None)], None,
        "the sample '000001' has no .cls with its label", "add it, or set data.label to where it is"),
    "no number": (sample(0, "cat"), None,
        "the sample '000000' has 'cat' in its .cls, not a whole number",
        "write a whole number (invalid literal for int() with base 10: 'cat')"),
    "no image": ([*sample(0, 2), *sample(1, 10, png=None)], None,
        "the sample '000001' has no image (.cls, .json, .txt)", "add one, or set data.image"),
    "two images": (sample(0, 2, jpg=b"x"), None,
        "the sample '000000' has 2 images (.png, .jpg)", "name the ending of the one that is meant in data.image"),
    "twice": ([*WHOLE, ("000000.png", png(3))], None,
        "the member '000000.png' is there twice", "give each sample of a shard a key of its own"),
    "empty": ([], None, "it holds no sample", "fill it, or remove it"),
    "cut in a member": (WHOLE, cut, "it cannot be read beyond the member '000000.png': unexpected end of data",
        "write the shard again; it is an uncompressed .tar, as members are read one by one"),
    "a damaged header": (WHOLE, spoil, "it is damaged or cut short after the member '000000.txt'",
        "write the shard again; it is an uncompressed .tar, as members are read one by one"),
    "cut between members": (WHOLE, without_end, "it is damaged or cut short after the member '000001.txt'",
        "write the shard again; it is an uncompressed .tar, as members are read one by one"),
    "joined": (WHOLE, joined, "more follows after its end", "join tar files with `tar -A`, not with `cat`"),
    "no tar": ([], lambda path: path.write_bytes(b"no tar file" * 99),
        "it cannot be read beyond its beginning: invalid header",
        "write the shard again; it is an uncompressed .tar, as members are read one by one"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_told_with_shard_member_and_repair(kind, tmp_path, cache):
    members, damage, text, help = WRONG[kind]
    path = shard(tmp_path / "0.tar", members)
    if damage is not None:
        damage(path)
    with pytest.raises(DataError) as caught:
        Shards("train", root=str(path))
    told = [line.strip() for line in caught.value.message.splitlines()]
    assert f"{path}: {text}" in told
    assert help in caught.value.help


def test_all_that_is_wrong_is_told_at_once(tmp_path, cache):
    for number in range(30):
        shard(tmp_path / "data" / f"{number:02}.tar", sample(number, 2, cls=None))
    with pytest.raises(DataError) as caught:
        Shards("train", root=str(tmp_path / "data"))
    lines = caught.value.message.splitlines()
    assert lines[0] == f"{tmp_path}/data: 30 things are wrong in its shards:"
    assert lines[1] == f"  {tmp_path}/data/00.tar: the sample '000000' has no .cls with its label"
    assert lines[-1] == "  and 10 more"
    assert len(lines) == 22


def test_a_member_that_is_no_image_is_named_and_can_be_skipped(root):
    shard(root / "train/2.tar", [*sample(90, 2), *sample(91, 10, png=b"no image")])
    with pytest.raises(DataError, match=r"train/2.tar/000091.png: this is no image"):
        Shards("train", root=str(root))
    assert len(Shards("train", root=str(root), on_error="skip").labels) == 13


def test_roots_that_hold_no_shards(tmp_path, cache):
    with pytest.raises(DataError, match="nowhere: does not exist"):
        Shards("train", root=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"there is no .tar file"):
        Shards("train", root=str(tmp_path))
    (tmp_path / "0.tar.gz").touch()
    with pytest.raises(DataError, match="this shard is compressed"):
        Shards("train", root=str(tmp_path))


def test_a_run_on_shards_goes_on_as_if_it_had_not_stopped_and_had_a_cache(root, tmp_path, cache, monkeypatch):
    data = ("data.name=shards", f"data.root={root}", "data.size=12", "sampler.batch_size=8", "sampler.window=10")
    recipe = tiny(tmp_path, *data, "train.steps=4", "train.checkpoint_every=1", "train.evaluate_every=4")
    run(recipe, tmp_path / "whole")
    shutil.rmtree(cache)
    monkeypatch.setenv("METRICLAB_CACHE_LIMIT", "1KB")
    answers = iter([False, True])
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "cut", stop=lambda: next(answers))
    run(recipe, tmp_path / "cut", resume=True)
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "cut")


def test_a_window_of_neighbours_is_drawn_at_a_time():
    sampler = Shuffled(np.zeros(61, np.int64), batch_size=8, window=16, drop_last=False)
    one, again, other = (np.concatenate(sampler.epoch(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert sorted(one.tolist()) == list(range(61))
    changes = np.flatnonzero(np.diff(one // 16)) + 1
    assert len(changes) == 3  # each window once, one after the other
    assert not np.array_equal(np.sort(one[: changes[0]]), one[: changes[0]])
