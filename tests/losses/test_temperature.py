"""The learned temperature of nt-xent and supcon against loops in float64, and its bounds."""

from __future__ import annotations

import math

import pytest
import torch

from metriclab.core.parameter_groups import parameter_groups
from metriclab.core.rows import rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.errors import RecipeError
from metriclab.losses import NTXent, SupCon
from metriclab.miners import NoMiner
from metriclab.runs.checkpoint import read_checkpoint
from metriclab.runs.folder import RunFolder
from metriclab.testing import check_loss
from tests.support.tiny import run, tiny

LABELS = [0, 0, 1, 1, 1, 2, -1, 0]
LOSSES = [NTXent, SupCon]


def by_loops(loss: type, z: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Equation 1 of Chen et al. 2020, and equation 2 of Khosla et al. 2020, with s / t = s e^log_scale."""
    unit = z / z.norm(dim=1, keepdim=True)
    logits = unit @ unit.T * log_scale.exp()
    parts = []
    for a, label in enumerate(LABELS):
        known = [o for o, other in enumerate(LABELS) if o != a and other >= 0 and label >= 0]
        alike = [o for o in known if LABELS[o] == label]
        negatives = [o for o in known if LABELS[o] != label]
        if loss is NTXent:
            parts += [torch.logsumexp(logits[a, [p, *negatives]], 0) - logits[a, p] for p in alike]
        elif alike:
            parts.append(torch.stack([torch.logsumexp(logits[a, known], 0) - logits[a, p] for p in alike]).mean())
    return torch.stack(parts).mean()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.5, 1.0])
@pytest.mark.parametrize("cells", [1, 20, 10**6])
def test_value_and_gradients_are_those_of_loops_whatever_the_tiles(loss, temperature, cells):
    criterion = loss(temperature=temperature, learnable_temperature=True).double()
    z = torch.randn(len(LABELS), 5, dtype=torch.float64, requires_grad=True)
    with forced_tile_cells(cells):
        found = criterion(z, LABELS)
        gradients = torch.autograd.grad(found, (z, criterion.log_scale))
    expected = by_loops(loss, z, criterion.log_scale)
    wanted = torch.autograd.grad(expected, (z, criterion.log_scale))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_before_it_learns_it_is_the_loss_of_a_fixed_temperature(loss):
    z = torch.randn(40, 8, dtype=torch.float64)
    batch = rows(z, torch.arange(40) % 7)
    learned = loss(temperature=0.2, learnable_temperature=True).double()
    torch.testing.assert_close(learned(batch), loss(temperature=0.2)(batch), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(learned(batch, miner=NoMiner()), learned(batch))


@pytest.mark.parametrize("loss", LOSSES)
def test_it_keeps_what_a_loss_keeps(loss):
    check_loss(loss(temperature=0.3, learnable_temperature=True))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("moved", "kept"), [(9.0, math.log(100)), (-3.0, 0.0)])
def test_it_is_clipped_with_its_gradient_alive(loss, moved, kept):
    criterion = loss(learnable_temperature=True)
    with torch.no_grad():
        criterion.log_scale.fill_(moved)
    criterion(torch.randn(8, 4), LABELS).backward()
    assert float(criterion.log_scale.detach()) == pytest.approx(kept)
    assert criterion.log_scale.grad.isfinite()
    assert float(criterion.log_scale.grad) != 0


@pytest.mark.parametrize("temperature", [0.009, 1.5])
def test_a_start_out_of_bounds_is_refused(temperature):
    message = rf"loss\.temperature = {temperature} cannot be learned from: .* between 0\.01 and 1\n.*0\.07"
    with pytest.raises(RecipeError, match=message):
        NTXent(temperature=temperature, learnable_temperature=True)


def test_without_it_nothing_is_learned():
    assert not list(NTXent().parameters())
    assert NTXent().state_dict() == {}
    assert "learnable_temperature=False" in repr(NTXent())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["loss.learnable_temperature=true"], {"temperature"}),
        (["loss.name=supcon", "loss.learnable_temperature=true"], {"temperature"}),
        (["loss.name=logistic", "loss.learnable=true"], {"temperature", "bias"}),
        (["loss.name=logistic"], set()),
        ([], set()),
    ],
)
def test_a_run_learns_it_and_logs_it_at_each_step(options, names, tmp_path):
    recipe = tiny(tmp_path, *options, "loss.temperature=0.5", "train.steps=3", "optimizer.learning_rate=0.5")
    assert run(recipe, tmp_path / "run")[-1].stage == "finished"
    lines = [line for line in RunFolder(tmp_path / "run").logged() if "loss" in line]
    assert [names & line.keys() for line in lines] == [names] * 3
    assert not {"temperature", "bias"} - names & lines[0].keys()
    values = [line["temperature"] for line in lines if "temperature" in line]
    assert len({0.5, *values}) == (4 if names else 1)
    if names:
        saved = read_checkpoint(tmp_path / "run" / "checkpoints", 3).tensors
        name = next(name for name in saved if name.endswith(("log_scale", "log_temperature")))
        assert values[-1] == pytest.approx(math.exp(-abs(float(saved[name]))))


def test_it_is_not_decayed():
    (group,) = parameter_groups({"loss": NTXent(learnable_temperature=True)})
    assert (group.name, group.decay) == ("loss", False)


def test_what_a_step_has_moved_out_of_bounds_is_logged_as_it_will_be_used():
    criterion = NTXent(learnable_temperature=True)
    with torch.no_grad():
        criterion.log_scale.fill_(9.0)
    assert float(criterion.logged_values()["temperature"]) == pytest.approx(0.01)
