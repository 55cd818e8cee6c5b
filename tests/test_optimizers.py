import copy
import math

import pytest
import torch
from torch import nn

from metriclab.core.parameter_groups import parameter_groups
from metriclab.errors import RecipeError
from metriclab.optimizers import LARS, SGD, AdamW


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))


class Bilinear(nn.Module):
    """Its bias has two dimensions, and still is a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.position_bias = nn.Parameter(torch.ones(2, 2))


def encoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm([2, 4, 4]), nn.GroupNorm(1, 2), nn.RMSNorm([2, 2])
    ).double()


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"encoder": encoder(), "head": nn.Linear(3, 2).double(), "loss": Temperature().double()}


def set_gradients(parts: dict[str, nn.Module]) -> None:
    torch.manual_seed(1)
    for module in parts.values():
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)


def reference(optimizer: torch.optim.Optimizer) -> list[tuple[dict, nn.Parameter, torch.Tensor, torch.Tensor]]:
    return [(g, p, p.detach().clone(), p.grad.clone()) for g in optimizer.param_groups for p in g["params"]]


def test_groups_split_by_module_and_decay():
    parts = modules()
    groups = parameter_groups(parts, {"encoder": 0.1})
    assert [(g.name, g.decay, len(g.parameters), g.factor) for g in groups] == [
        ("encoder", True, 1, 0.1),
        ("encoder", False, 8, 0.1),
        ("head", True, 1, 1.0),
        ("head", False, 1, 1.0),
        ("loss", False, 1, 1.0),
    ]
    assert groups[0].parameters == [parts["encoder"][0].weight]
    assert groups[2].parameters == [parts["head"].weight]


def test_norms_and_biases_do_not_decay_whatever_their_shape():
    assert [(g.decay, len(g.parameters)) for g in parameter_groups({"norm": nn.LayerNorm([2, 4, 4])})] == [(False, 2)]
    bilinear = Bilinear()
    decaying, other = parameter_groups({"head": bilinear})
    assert decaying.parameters == [bilinear.weight]
    assert other.parameters == [bilinear.position_bias]


def test_a_shared_parameter_belongs_to_the_first_module_only():
    parts = modules()
    parts["method"] = nn.ModuleList([*parts.values(), Temperature()])
    groups = parameter_groups(parts)
    ids = [id(parameter) for group in groups for parameter in group.parameters]
    assert len(ids) == len(set(ids)) == len(list(parts["method"].parameters()))
    assert [(g.name, len(g.parameters)) for g in groups][-1] == ("method", 1)


def test_frozen_parameters_are_left_out():
    parts = modules()
    parts["encoder"].requires_grad_(False)
    assert {group.name for group in parameter_groups(parts, {"encoder": 0.1})} == {"head", "loss"}


def test_nothing_to_train_is_an_error():
    with pytest.raises(RecipeError, match=r"nothing to train: encoder, head have no trainable.*\n.*train\.steps = 0"):
        parameter_groups({"encoder": nn.Identity(), "head": nn.Identity()})


@pytest.mark.parametrize(
    ("factors", "text"),
    [
        (
            {"encodr": 0.1},
            r"no group 'encodr'; the groups of this run are encoder, head, loss\n  help: did you mean 'encoder'\?",
        ),
        ({"xyz": 0.1}, r"no group 'xyz'.*\n  help: leave out 'xyz'"),
    ],
)
@pytest.mark.parametrize("make", [SGD, AdamW, LARS])
def test_bad_factors_are_refused(make, factors, text: str):
    with pytest.raises(RecipeError, match=text):
        make(modules(), groups=factors)


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("make", [SGD, AdamW, LARS])
def test_what_is_no_factor_is_refused_as_a_recipe_does(make, factor: float):
    text = rf"groups of optimizer '{make.__name__.lower()}' must be dict\[str, float >= 0\], not {{ head = {factor} }}"
    with pytest.raises(ValueError, match=text):
        make(modules(), groups={"head": factor})


@pytest.mark.parametrize("make", [SGD, LARS])
def test_nesterov_needs_momentum(make):
    with pytest.raises(RecipeError, match=r"nesterov needs momentum\n.*momentum = 0\.9"):
        make(modules(), momentum=0.0, nesterov=True)
    make(modules(), nesterov=True)


@pytest.mark.parametrize("make", [SGD, AdamW, LARS])
def test_groups_keep_their_name_and_first_rate(make):
    optimizer = make(modules(), learning_rate=0.5, weight_decay=0.25, groups={"encoder": 0.1})
    kept = [(g["name"], g["lr"], g["initial_lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert kept == [
        ("encoder", 0.05, 0.05, 0.25),
        ("encoder", 0.05, 0.05, 0.0),
        ("head", 0.5, 0.5, 0.25),
        ("head", 0.5, 0.5, 0.0),
        ("loss", 0.5, 0.5, 0.0),
    ]


@pytest.mark.parametrize("make", [SGD, AdamW, LARS])
def test_state_and_groups_survive_saving(make):
    parts, twins = modules(), modules()
    optimizer, twin = make(parts, groups={"head": 2.0}), make(twins)
    for _ in range(2):
        set_gradients(parts)
        optimizer.step()
    for name in parts:
        twins[name].load_state_dict(parts[name].state_dict())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((optimizer, parts), (twin, twins)):
        set_gradients(its)
        each.step()
    assert [g["initial_lr"] for g in twin.param_groups] == [g["initial_lr"] for g in optimizer.param_groups]
    for one, other in zip(nn.ModuleDict(parts).parameters(), nn.ModuleDict(twins).parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_formula(nesterov: bool):
    """v <- m v + g + d w, w <- w - lr v; with Nesterov, w <- w - lr (g + d w + m v). Two steps, no decay on norms."""
    parts = modules()
    optimizer = SGD(parts, learning_rate=0.1, momentum=0.8, nesterov=nesterov, weight_decay=0.3)
    set_gradients(parts)
    before = reference(optimizer)
    optimizer.step()
    optimizer.step()
    for group, parameter, w, g in before:
        decay = 0.3 if group["weight_decay"] else 0.0
        v = torch.zeros_like(w)
        for _ in range(2):
            slope = g + decay * w
            v = 0.8 * v + slope
            w = w - 0.1 * (slope + 0.8 * v if nesterov else v)
        torch.testing.assert_close(parameter.detach(), w, rtol=1e-12, atol=1e-14)


def test_adamw_is_the_formula():
    """Loshchilov & Hutter 2019, algorithm 2, two steps, element by element."""
    parts = modules()
    optimizer = AdamW(parts, learning_rate=0.1, beta1=0.7, beta2=0.9, epsilon=1e-3, weight_decay=0.3)
    set_gradients(parts)
    before = reference(optimizer)
    optimizer.step()
    optimizer.step()
    for group, parameter, start, gradient in before:
        decay = 0.3 if group["weight_decay"] else 0.0
        for w, g, after in zip(start.flatten(), gradient.flatten(), parameter.detach().flatten(), strict=True):
            m = v = torch.zeros((), dtype=torch.float64)
            for t in (1, 2):
                m = 0.7 * m + 0.3 * g
                v = 0.9 * v + 0.1 * g * g
                w = w - 0.1 * ((m / (1 - 0.7**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-3) + decay * w)
            torch.testing.assert_close(after, w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("weight_decay", [0.3, 0.0])
def test_lars_is_the_formula(weight_decay: float):
    """You et al. 2017, algorithm 1; biases, norms and scalars take plain SGD's step, as in SimCLR.

    Without weight decay, too, the weights are scaled.
    """
    parts = modules()
    optimizer = LARS(parts, learning_rate=0.1, momentum=0.8, trust=0.01, weight_decay=weight_decay)
    set_gradients(parts)
    before = reference(optimizer)
    optimizer.step()
    optimizer.step()
    scaled = [parts["encoder"][0].weight, parts["head"].weight]
    for _, parameter, w, g in before:
        v = torch.zeros_like(w)
        for _ in range(2):
            rate, decay = 1.0, 0.0
            if any(parameter is weight for weight in scaled):
                length, slope = w.square().sum().sqrt(), g.square().sum().sqrt()
                rate, decay = 0.01 * length / (slope + weight_decay * length), weight_decay
            v = 0.8 * v + 0.1 * rate * (g + decay * w)
            w = w - v
        torch.testing.assert_close(parameter.detach(), w, rtol=1e-6, atol=1e-12)  # timm adds 1e-8 to the denominator


def test_a_factor_of_zero_stops_a_group():
    parts = modules()
    optimizer = AdamW(parts, groups={"encoder": 0.0})
    before = [p.detach().clone() for p in parts["encoder"].parameters()]
    set_gradients(parts)
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(parts["encoder"].parameters(), before, strict=True))
