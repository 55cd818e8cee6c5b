"""Distillation against its papers' formulas, written as loops, and what is easy to get wrong in it."""

from __future__ import annotations

import json
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from metriclab.api import Batch, DataError, Network, RecipeError, build, normalize
from metriclab.testing import check_method
from metriclab_distill.relations import angle_gap, cosine_gap, distance_gap, distribution_gap
from metriclab_distill.teacher_file import read_features

ITEMS = 7
TEACHER = {"name": "timm", "model": "test_vit"}


class Flat(nn.Module):
    """A linear encoder of 3 x 4 x 4 images."""

    def __init__(self):
        super().__init__()
        self.out_features = 6
        self.linear = nn.Linear(48, 6)

    def forward(self, images):
        return self.linear(images.flatten(1))


def unit(n, d, seed):
    return normalize(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def features(width=5):
    return unit(ITEMS, width, 9)


def distill(*, prepared=True, width=5, **options):
    torch.manual_seed(0)
    network = Network(Flat(), build("head", "linear", 6, embedding_dim=4))
    method = build("method", "distill", network, **{"teacher": TEACHER, **options}).double()
    if prepared:
        method.prepare([str(item) for item in range(ITEMS)], lambda table: features(width))
    return method


def ring(size=10):
    return build("memory", "ring", 4, torch.arange(4), size=size)


def batch(step=0, views=2, items=range(ITEMS)):
    items = torch.tensor(items)
    generator = torch.Generator().manual_seed(step)
    images = tuple(torch.randn(len(items), 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(views))
    labels = torch.tensor([0, 1, 0, 2, 1, 0, -1])[: len(items)]
    return Batch(images, labels, items, torch.arange(len(items)), step)


def huber(x):
    return 0.5 * x * x if abs(float(x.detach())) < 1 else abs(x) - 0.5


def naive_cosine(student, teacher):
    pairs = list(permutations(range(len(student)), 2))
    return sum((student[i] @ student[j] - teacher[i] @ teacher[j]) ** 2 for i, j in pairs) / len(pairs)


def naive_distance(student, teacher):
    """Equations 5 and 6 of Park et al.: the mean is over pairs of different images."""
    pairs = list(permutations(range(len(student)), 2))
    sides = []
    for z in (student, teacher):
        distances = [(z[i] - z[j]).norm() for i, j in pairs]
        mean = sum(distances) / len(distances)
        sides.append([d / mean for d in distances])
    return sum(huber(s - t) for s, t in zip(*sides, strict=True)) / len(pairs)


def naive_angle(student, teacher):
    """Equations 7 and 8."""
    costs = []
    for i, j, k in permutations(range(len(student)), 3):
        cosines = []
        for z in (student, teacher):
            first, second = z[i] - z[j], z[k] - z[j]
            cosines.append(first @ second / first.norm() / second.norm())
        costs.append(huber(cosines[0] - cosines[1]))
    return sum(costs) / len(costs)


def naive_distribution(student, teacher, used, temperature, teacher_temperature):
    costs = []
    for i in range(len(student)):
        here = [j for j in range(student.shape[1]) if used[i, j]]
        if not here:
            continue
        p = [torch.exp(teacher[i, j] / teacher_temperature) for j in here]
        q = [torch.exp(student[i, j] / temperature) for j in here]
        costs.append(sum(a / sum(p) * torch.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True)))
    return sum(costs) / max(1, len(costs))


@pytest.mark.parametrize(
    ("gap", "naive"), [(cosine_gap, naive_cosine), (distance_gap, naive_distance), (angle_gap, naive_angle)]
)
def test_relations_are_the_papers(gap, naive):
    raw = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    teacher, student = unit(6, 5, 1), normalize(raw)
    found, expected = gap(student, teacher), naive(student, teacher)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    ours, theirs = (torch.autograd.grad(one, raw, retain_graph=True)[0] for one in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


def test_angles_do_not_depend_on_the_blocks(monkeypatch):
    student, teacher = unit(6, 3, 0), unit(6, 5, 1)
    whole = angle_gap(student, teacher)
    monkeypatch.setattr("metriclab_distill.relations._CELLS", 80)
    torch.testing.assert_close(angle_gap(student, teacher), whole, atol=1e-14, rtol=0)


def test_distributions_are_the_papers():
    raw = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    teacher, used = torch.randn(5, 8, dtype=torch.float64), torch.rand(5, 8) < 0.6
    used[2] = False
    found, expected = distribution_gap(raw, teacher, used, 0.3, 0.2), naive_distribution(raw, teacher, used, 0.3, 0.2)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    ours, theirs = (torch.autograd.grad(one, raw)[0] for one in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


def test_three_images_by_hand():
    # The teacher's three at right angles, of equal distances; the student's first two coincide.
    student = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]], dtype=torch.float64)
    teacher = torch.eye(3, dtype=torch.float64)
    assert float(cosine_gap(student, teacher)) == pytest.approx(1 / 3, abs=1e-12)
    # Distances 0, 1.5, 1.5 of their mean against 1, 1, 1.
    assert float(distance_gap(student, teacher)) == pytest.approx((0.5 + 2 * 0.125) / 3, abs=1e-12)
    # Angles of 60 degrees; the student's are 0 at the third, and none where two coincide.
    assert float(angle_gap(student, teacher)) == pytest.approx((2 * 0.125 + 0.125) / 3, abs=1e-12)


@pytest.mark.parametrize("gap", [cosine_gap, distance_gap, angle_gap])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_and_equal_images_give_finite_gradients(gap, n):
    raw = torch.ones(n, 3, dtype=torch.float64, requires_grad=True)
    value = gap(normalize(raw), unit(n, 5, 1))
    (gradient,) = torch.autograd.grad(value, raw)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert n > 1 or value == 0


@pytest.mark.parametrize("gap", [cosine_gap, distance_gap, angle_gap])
def test_the_teacher_itself_costs_nothing_and_a_nan_is_seen(gap):
    assert float(gap(features(), features())) == pytest.approx(0, abs=1e-15)
    broken = features()
    broken[2] = torch.nan
    assert gap(broken, features()).isnan()


@pytest.mark.parametrize("objective", ["cosine", "relational", "distribution"])
def test_relations_are_of_the_images_of_one_view(objective):
    method = distill(objective=objective)
    world = method(batch())
    each = []
    for view in (0, 1):
        z = world.student.z[world.student.views == view]
        if objective == "cosine":
            each.append(cosine_gap(z, features()))
        elif objective == "relational":
            each.append(distance_gap(z, features()) + 2 * angle_gap(z, features()))
        else:
            used = ~torch.eye(ITEMS, dtype=torch.bool)
            each.append(distribution_gap(z @ z.T, features() @ features().T, used, 0.04, 0.04))
    loss, logged = method.objective(world, world)
    torch.testing.assert_close(loss, sum(each) / 2, atol=1e-12, rtol=0)
    torch.testing.assert_close(logged["distillation"], loss.detach())
    assert abs(float(logged["agreement"])) <= 1


def test_a_memory_adds_earlier_embeddings_and_their_teachers_features():
    method = distill(objective="distribution", memory=ring(5), temperature=0.3, teacher_temperature=0.2)
    first = method(batch(0, views=1, items=[0, 1, 2]))
    method.after_step(type(first)(first.student.detach(), first.teacher), 0)
    world = method(batch(1, views=1, items=[2, 3, 4]))
    references = torch.cat([world.student.z, first.student.z])
    items = torch.tensor([2, 3, 4, 0, 1, 2])
    t = features()
    used = world.student.items[:, None] != items[None]
    cosines = world.student.z @ references.T
    expected = naive_distribution(cosines, t[[2, 3, 4]] @ t[items].T, used, 0.3, 0.2)
    torch.testing.assert_close(method.objective(world, world).loss, expected, atol=1e-12, rtol=0)


def test_against_the_teacher_an_image_is_held_against_its_own_features_too():
    method = distill(objective="distribution", against="teacher", width=4, temperature=0.3)
    world = method(batch(views=1))
    t = features(4)
    used = torch.ones(ITEMS, ITEMS, dtype=torch.bool)
    expected = naive_distribution(world.student.z @ t.T, t @ t.T, used, 0.3, 0.04)
    torch.testing.assert_close(method.objective(world, world).loss, expected, atol=1e-12, rtol=0)


def test_a_loss_over_labels_is_added():
    loss = build("loss", "supcon")
    method, alone = distill(loss=loss, weight=3.0), distill()
    world = method(batch())
    expected = 3 * alone.objective(world, world).loss + loss(world.student, world.student)
    torch.testing.assert_close(method.objective(world, world).loss, expected, atol=1e-12, rtol=0)


CASES = {
    "cosine": {},
    "relational": {"objective": "relational"},
    "distribution with a memory": {"objective": "distribution", "temperature": 0.3, "teacher_temperature": 0.3},
    "labels": {"loss": "supcon"},
}


@pytest.mark.parametrize("case", CASES)
def test_it_keeps_what_a_method_keeps_on_any_number_of_ranks(case):
    options = dict(CASES[case])
    if "loss" in options:
        options["loss"] = build("loss", options["loss"])
    if "memory" in case:
        options["memory"] = ring()
    check_method(distill(**options), batch())


def test_the_teacher_is_no_part_of_a_checkpoint():
    assert not [key for key in distill().state_dict() if not key.startswith("network.")]


NAMES = ["cat/1.png", "dog/2.png", "cat/3.png"]


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_a_file_is_read_by_place_or_by_the_paths_in_it(tmp_path, ending):
    file = tmp_path / f"features{ending}"
    table = np.arange(1, 13, dtype=np.float32).reshape(4, 3)

    def save(array, paths=None):
        if ending == ".npy":
            np.save(file, array)
            if paths:
                file.with_suffix(".paths.txt").write_text("".join(f"{path}\n" for path in paths))
        else:
            save_file({"embeddings": array}, file, metadata={"paths": json.dumps(paths)} if paths else None)

    save(table[:3])
    torch.testing.assert_close(read_features(file, NAMES), normalize(torch.from_numpy(table[:3])))
    with pytest.raises(DataError, match="has 3 rows, and there are 2 training images"):
        read_features(file, NAMES[:2])
    save(table, ["/photos/dog/2.png", "/photos/x.png", "/photos/cat/1.png", "/photos/cat/3.png"])
    torch.testing.assert_close(read_features(file, NAMES), normalize(torch.from_numpy(table[[2, 0, 3]])))
    with pytest.raises(DataError, match=r"has no row for the training image cat/4\.png"):
        read_features(file, [*NAMES, "cat/4.png"])


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.npy' cannot be read: No such file or directory\n  help: `metriclab"):
        read_features(tmp_path / "none.npy", NAMES)
    with pytest.raises(DataError, match=r"has no format that can be read\n  help: end it in \.npy, \.safetensors"):
        read_features(tmp_path / "features.csv", NAMES)
    np.save(tmp_path / "labels.npy", np.arange(3))
    with pytest.raises(DataError, match=r"holds int64 of shape \(3,\), expected floats of shape \(images, d"):
        read_features(tmp_path / "labels.npy", NAMES)
    np.save(tmp_path / "nan.npy", np.full((3, 2), math.nan))
    with pytest.raises(DataError, match="holds NaN or infinity"):
        read_features(tmp_path / "nan.npy", NAMES)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"teacher": None}, r"has no teacher\n  help: add \[method\.teacher\]"),
        ({"teacher_features": "x.npy"}, "has two teachers"),
        ({"memory": ring()}, "the memory has no use with objective = 'cosine'"),
        ({"against": "teacher"}, "against = 'teacher' has no use with objective = 'cosine'"),
        (
            {"objective": "distribution", "memory": build("memory", "proxies", 4, torch.arange(3))},
            "this memory has learned rows of its own",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, text):
    with pytest.raises(RecipeError, match=text):
        distill(prepared=False, **options)


def test_a_head_of_other_dimensions_than_the_teacher_and_no_preparation_are_told():
    with pytest.raises(RecipeError, match=r"has 4 dimensions, and the teacher's features 5\n  help: set head\."):
        distill(objective="distribution", against="teacher")
    with pytest.raises(RecipeError, match="no features of its teacher yet"):
        distill(prepared=False)(batch())
