"""What TensorBoard reads back of a run: curves once a step, embeddings, images."""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from metriclab.api import build, rows
from metriclab.testing import check_tracker
from metriclab_tensorboard import tag
from metriclab_tensorboard.shown import (
    QUERY,
    RIGHT,
    UNKNOWN,
    WRONG,
    Some,
    embed_some,
    one_line,
    retrieval_image,
    small,
    some_items,
)

RECIPE = """
[data]
name = "synthetic"
size = 12

[views]
name = "simclr"
size = 8

[sampler]
name = "shuffled"
batch_size = 16

[encoder]
name = "pixels"
size = 8

[head]
name = "linear"
embedding_dim = 4

[loss]
name = "nt-xent"

[method]
name = "simclr"

[optimizer]
name = "sgd"

[schedule]
name = "constant"

[train]
steps = 7
evaluate_every = 1
checkpoint_every = 2
keep_checkpoints = true
log_every = 1
threads = 1
output = "z"

[[track]]
name = "jsonl"

[[track]]
name = "tensorboard"
items = 30
queries = 4
nearest = 5

[[evaluate]]
name = "retrieval"
"""


def tracker(folder, **options):
    return build("tracker", "tensorboard", folder, **options)


def read(folder):
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()


def curve(events, name):
    return [(point.step, point.value) for point in events.Scalars(name)]


def test_each_log_is_on_disk_at_once_under_its_group(tmp_path):
    one = tracker(tmp_path)
    one.log(1, {"loss": 1.5, "queue_filled": 0.25})
    one.log(1, {"val.retrieval.map_at_r": 0.5})
    one.log(2, {"loss": math.nan})
    events = read(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "train/queue_filled", "val/retrieval/map_at_r"]
    (first, value), (second, nan) = curve(events, "train/loss")
    assert (first, value, second) == (1, 1.5, 2)
    assert math.isnan(nan)
    assert curve(events, "val/retrieval/map_at_r") == [(1, 0.5)]
    one.close()
    assert tag("drift.10") == "drift/10"


@pytest.mark.parametrize("closed", [True, False], ids=["stopped", "killed"])
def test_a_resumed_run_has_every_step_once(closed, tmp_path):
    first, resumed = tracker(tmp_path), tracker(tmp_path)
    for step in (2, 4, 6, 8):  # the last checkpoint is of step 5
        first.log(step, {"loss": float(step)})
        first.log(step, {"val.knn.accuracy": 0.1})
    if closed:
        first.close()
    for step in (6, 8, 10):
        resumed.log(step, {"loss": 10.0 * step})
    resumed.close()
    events = read(tmp_path)
    assert curve(events, "train/loss") == [(2, 2.0), (4, 4.0), (6, 60.0), (8, 80.0), (10, 100.0)]
    assert [step for step, _ in curve(events, "val/knn/accuracy")] == [2, 4]
    first.close()


def test_without_a_result_and_without_a_log_it_leaves_nothing(tmp_path):
    tracker(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_conformance():
    check_tracker(partial(build, "tracker", "tensorboard"))


def metriclab(*arguments):
    command = [sys.executable, "-m", "metriclab.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run that was killed after step 7 and resumed from the checkpoint of step 4."""
    folder = tmp_path_factory.mktemp("tensorboard")
    (folder / "tiny.toml").write_text(RECIPE)
    metriclab("run", folder / "tiny.toml", "--out", folder / "run", "-q")
    # A process that is killed leaves its events, but neither a result nor what is made from it.
    (folder / "run/result.json").unlink()
    for later in (folder / "run/checkpoints").glob("step-*"):
        if int(later.stem.split("-")[1].split(".")[0]) > 4:
            later.unlink()
    for shown in (folder / "run/tensorboard").iterdir():
        if not shown.name.startswith("events"):
            shutil.rmtree(shown) if shown.is_dir() else shown.unlink()
    metriclab("run", folder / "tiny.toml", "--out", folder / "run", "-q", "--resume")
    return folder / "run"


def test_the_curves_are_the_lines_of_the_run_once_a_step(run):
    events = read(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {}
    for line in lines:
        step = line.pop("step")
        for name, value in line.items():
            expected.setdefault(tag(name), []).append((step, np.float32(value)))
    assert [step for step, _ in curve(events, "train/loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(events.Tags()["scalars"]) == sorted(expected)
    for name, points in expected.items():
        np.testing.assert_array_equal(curve(events, name), points)


def test_the_projector_has_test_images_with_classes_and_pictures(run):
    log, best = run / "tensorboard", json.loads((run / "result.json").read_text())["best_step"]
    config = text_format.Parse((log / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    assert embedding.tensor_name == f"test:{best:05d}"
    vectors = np.loadtxt(log / embedding.tensor_path, delimiter="\t")
    some = embed_some(run, 30)
    np.testing.assert_allclose(vectors, some.rows.z.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    header, *cells = [line.split("\t") for line in (log / embedding.metadata_path).read_text().splitlines()]
    assert header == ["class", "name"]
    data = build("dataset", "synthetic", "test", size=12)
    chosen = some.rows.items.tolist()
    assert chosen == some_items(data.labels, 30).tolist()
    assert cells == [[str(data.classes[data.labels[i]]), str(data.names[i])] for i in chosen]
    assert list(embedding.sprite.single_image_dim) == [8, 8]
    with Image.open(log / embedding.sprite.image_path) as sprite:
        assert sprite.size == (48, 48)  # 30 pictures in a square of 6 x 6


def test_the_retrieval_image_is_read_back(run):
    (event,) = read(run).Images("retrieval")
    assert event.step == json.loads((run / "result.json").read_text())["best_step"]
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        pixels = np.asarray(image.convert("RGB"))
    expected = retrieval_image(embed_some(run, 30), 4, 5)
    assert expected.shape == (3, 4 * 16, 6 * 16)  # a frame and a gap of 2 pixels on each side of 8
    np.testing.assert_allclose(pixels, expected.permute(1, 2, 0).numpy() * 255, atol=1)


def frames(image, side):
    """Colours of the frames, line by line."""
    height, width = image.shape[1] // side, image.shape[2] // side
    return [
        [tuple(image[:, row * side + 2, column * side + 2].tolist()) for column in range(width)]
        for row in range(height)
    ]


def test_a_line_is_a_query_and_its_nearest_others_framed_by_class():
    z = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.6, 0.4], [0.0, 1.0]])
    some = Some(
        rows(z, torch.tensor([0, 1, 0, -1])), torch.arange(4.0)[:, None, None, None].expand(4, 3, 4, 4) / 4, [], []
    )
    image = retrieval_image(some, queries=2, nearest=9)
    side = 4 + 2 * 4
    found = [[(round(r, 3), round(g, 3), round(b, 3)) for r, g, b in line] for line in frames(image, side)]
    assert found == [[QUERY, WRONG, RIGHT, UNKNOWN], [QUERY, UNKNOWN, UNKNOWN, UNKNOWN]]
    shades = image[0, side // 2 :: side, side // 2 :: side] * 4
    assert shades.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert image[:, 0].max() == 0


def test_a_single_image_has_nothing_beside_it():
    some = Some(rows(torch.ones(1, 2), torch.tensor([0])), torch.ones(1, 3, 4, 4), ["a"], ["b"])
    assert retrieval_image(some, 3, 3).shape == (3, 12, 12)


@pytest.mark.parametrize(
    ("classes", "each", "count", "expected"),
    [
        (50, 12, 60, {0: 10, 10: 10, 20: 10, 29: 10, 39: 10, 49: 10}),  # most classes are left out
        (3, 100, 60, {0: 20, 1: 20, 2: 20}),  # few classes: more of each
        (4, 5, 60, {0: 5, 1: 5, 2: 5, 3: 5}),  # all there is
        (9, 8, 15, {0: 8, 8: 7}),  # cut off
    ],
)
def test_some_items_of_some_classes_are_taken(classes, each, count, expected):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), each))
    chosen = some_items(labels, count)
    assert len(set(chosen.tolist())) == len(chosen)
    found, counts = np.unique(labels[chosen], return_counts=True)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == expected
    assert some_items(np.full(9, -1), 3).tolist() == [0, 4, 8]


def test_pictures_are_in_colour_square_and_small():
    assert small(torch.rand(2, 1, 8, 8)).shape == (2, 3, 8, 8)
    assert small(torch.rand(2, 3, 100, 200)).shape == (2, 3, 64, 64)
    assert small(torch.rand(2, 3, 20, 30)).shape == (2, 3, 20, 20)


def test_no_name_breaks_the_table():
    assert one_line("a\tb\n c") == "a b c"
