"""What every encoder keeps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.core.promises import check_built, check_features
from metriclab.testing.cases import shuffle
from metriclab.testing.checks import Check, check, refusal, running, wanted
from metriclab.testing.state import assert_stateless

_REGISTER = "register them, layers in an nn.ModuleList in place of a list"

Rebuild = Callable[[], nn.Module]

CLOSE = 1e-4
"""Largest difference, beside the largest feature or 1, of float32 features that must be equal but for rounding."""


def encoder_checks(
    encoder: Any, *, size: int = 32, channels: int = 3, device: bool = True, rebuild: Rebuild | None = None
) -> list[Check]:
    """Checks an encoder on small images: everything that training, evaluation and checkpoints rely on.

    It gives one finite feature vector of `out_features` an image, also for images all black or all white, in
    channels-last memory and under bfloat16 autocast, and writes into nothing it is given. In `eval()` it is a pure
    function of each image by itself. All state is in parameters and buffers: saved, copied or pickled, it goes on as it
    was; every weight is a parameter, and a gradient reaches each that wants one. It takes values from 0 to 1, so mean
    and standard deviation are its own.

    Args:
        encoder: the component, built; it is copied, never changed.
        size: height and width of the images, in pixels.
        channels: of the images.
        device: whether it runs on tensors without values, so that a GPU need never wait for it.
        rebuild: builds another one like it, which has to give the same once it has its state.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    images = torch.rand(6, channels, size, size, generator=torch.Generator().manual_seed(0))
    checks = module_checks(encoder, images, "image", rebuild)
    if isinstance(encoder, nn.Module):
        checks.append(check("channels last", _check_channels_last, type(encoder).__name__, encoder, images))
    return wanted(checks, device=device)


check_encoder = running(encoder_checks)


def head_checks(head: Any, in_features: int, *, device: bool = True, rebuild: Rebuild | None = None) -> list[Check]:
    """Checks a head on features of this width, which it was built with: all that `check_encoder` asks, but for images.

    Args:
        head: the component, built; it is copied, never changed.
        in_features: width of the encoder's features.
        device: whether it runs on tensors without values, so that a GPU need never wait for it.
        rebuild: builds another one like it, which has to give the same once it has its state.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    features = torch.randn(6, in_features, generator=torch.Generator().manual_seed(0))
    return wanted(module_checks(head, features, "row", rebuild), device=device)


check_head = running(head_checks)


def module_checks(module: Any, given: Tensor, what: str, rebuild: Rebuild | None) -> list[Check]:
    """What encoders and heads have in common.

    Args:
        module: it is copied, never changed.
        given: what to call it on, one an image or a row.
        what: "image" or "row".
        rebuild: as above.
    """
    name = type(module).__name__
    if not isinstance(module, nn.Module):
        return refusal("features", f"{name} is no nn.Module: it could be neither trained nor saved")
    return [
        check("features", _check_features, name, module, given, what),
        check("arguments unchanged", _check_arguments, name, module, given),
        check("each by itself", _check_alone, name, module, given, what),
        check("state saved", _check_state, name, module, given, rebuild),
        check("copies", _check_copies, name, module, given),
        check("gradients", _check_gradients, name, module, given),
        check("bfloat16 autocast", _check_autocast, name, module, given),
        check("no values read on the host", _check_device, name, module, given, option="device"),
    ]


def _copy(module: nn.Module, *, training: bool) -> nn.Module:
    return copy.deepcopy(module).train(training)


@torch.no_grad()
def _seen(module: nn.Module, given: Tensor) -> Tensor:
    """What it makes of this in `eval()`."""
    features: Tensor = _copy(module, training=False)(given)
    return features


def _differ(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max()) / max(1.0, float(other.abs().max()))


def _check_features(name: str, module: Any, given: Tensor, what: str) -> None:
    check_built("encoder", module)
    cases = {"in eval()": given, f"for one {what}": given[:1], "of zeros": given * 0, "of ones": given * 0 + 1}
    for case, one in cases.items():
        features = _seen(module, one)
        check_features(module, features, len(one), case)
        assert features.dtype == torch.float32, f"{name} gives {features.dtype} for float32"
        assert bool(features.isfinite().all()), f"{name} is not finite {case}"
    with torch.random.fork_rng(devices=[]):
        features = _copy(module, training=True)(given)
    check_features(module, features, len(given), "in training")
    assert bool(features.isfinite().all()), f"{name} is not finite in training"


def _check_arguments(name: str, module: nn.Module, given: Tensor) -> None:
    for training in (True, False):
        passed = given.clone()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            _copy(module, training=training)(passed)
        assert torch.equal(passed, given), f"{name} writes into what it is given"


def _check_alone(name: str, module: nn.Module, given: Tensor, what: str) -> None:
    whole = _seen(module, given)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        again = _seen(module, given)
    assert torch.equal(whole, again), f"{name} gives other features in a second call in eval(): nothing random there"
    order = shuffle(len(given))
    for part in (order, order[:2], order[3:4]):
        difference = _differ(_seen(module, given[part]), whole[part])
        assert difference <= CLOSE, (
            f"{name} gives a {what} other features in other company (by {difference:.2g}): in eval() {what}s must not "
            "mix"
        )


def _check_state(name: str, module: nn.Module, given: Tensor, rebuild: Rebuild | None) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        used = _copy(module, training=True)
        for shift in (0.0, 0.1):
            used(given + shift)
        resumed = _copy(module, training=True)
        resumed.load_state_dict(copy.deepcopy(used.state_dict()))
        assert torch.equal(_seen(used, given), _seen(resumed, given)), (
            f"{name} goes on differently after its state was saved and loaded: keep it in buffers and parameters"
        )
        for mode in (True, False):
            used.train(mode)
            assert_stateless(name, used, lambda: used(given), "keep it in buffers and parameters")
        if rebuild is not None:
            torch.manual_seed(7)
            other = rebuild()
            other.load_state_dict(copy.deepcopy(module.state_dict()))
            assert _differ(_seen(other, given), _seen(module, given)) <= CLOSE, (
                f"another {name} gives other features with the state of this one: it has weights that are no "
                f"parameters, which no checkpoint holds; {_REGISTER}"
            )


def _check_copies(name: str, module: nn.Module, given: Tensor) -> None:
    try:
        made = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    except Exception as error:
        raise AssertionError(f"{name} cannot be copied or pickled: {type(error).__name__}: {error}") from error
    expected = _seen(module, given)
    for one in made:
        assert torch.equal(_seen(one, given), expected), f"a copy of {name} gives other features"
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.add_(1.0)
        same = torch.equal(_seen(module, given), expected)
        assert same, f"what is done to a copy of {name} changes the original: they share parameters"


def _check_gradients(name: str, module: nn.Module, given: Tensor) -> None:
    trained = _copy(module, training=True)
    wanting = {key: parameter for key, parameter in trained.named_parameters() if parameter.requires_grad}
    with torch.random.fork_rng(devices=[]):
        features = trained(given)
        strangers = _trained_by(features) - {id(parameter) for parameter in trained.parameters()}
        assert not strangers, (
            f"{name} computes with {len(strangers)} weights that are none of its parameters, so nothing trains or "
            f"saves them; {_REGISTER}"
        )
        if not wanting:
            return
        weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
        assert features.requires_grad, f"{name} gives features without a graph, though it has parameters to train"
        (features * weights).sum().backward()
    for key, parameter in wanting.items():
        assert parameter.grad is not None, (
            f"no gradient reaches '{key}' of {name}: several processes would wait for it; leave it out, or set "
            "requires_grad = False"
        )
        assert bool(parameter.grad.isfinite().all()), f"the gradient of '{key}' of {name} is not finite"
    moved = any(bool(parameter.grad.any()) for parameter in wanting.values() if parameter.grad is not None)
    assert moved, f"the gradient of every parameter of {name} is zero: nothing would train"


def _trained_by(features: Tensor) -> set[int]:
    """The tensors that a backward pass from here gives a gradient."""
    found, waiting, seen = set(), [features.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return found


def _check_autocast(name: str, module: nn.Module, given: Tensor) -> None:
    expected = _seen(module, given)
    with torch.autocast("cpu", torch.bfloat16):
        lower = _seen(module, given)
    assert bool(lower.isfinite().all()), f"{name} is not finite under bfloat16 autocast"
    difference = _differ(lower, expected)
    assert difference < 0.1, f"{name} gives quite other features under bfloat16 autocast (by {difference:.2g})"


def _check_channels_last(name: str, module: nn.Module, given: Tensor) -> None:
    layout: Any = torch.channels_last
    try:
        found = _seen(_copy(module, training=False).to(memory_format=layout), given.contiguous(memory_format=layout))
    except RuntimeError as error:
        raise AssertionError(
            f"{name} raises on images in channels-last memory, which runs use by default: {error}; use flatten or "
            "reshape in place of view"
        ) from error
    difference = _differ(found, _seen(module, given))
    assert difference <= CLOSE, f"{name} gives other features in channels-last memory (by {difference:.2g})"


def _check_device(name: str, module: nn.Module, given: Tensor) -> None:
    without_values = _copy(module, training=False).to("meta")
    try:
        without_values(given.to("meta"))
    except Exception as error:
        raise AssertionError(
            f"{name} cannot run on tensors without values ({type(error).__name__}: {error}): it reads values on the "
            "host, by .item() or a boolean index, or makes tensors on another device than what it is given"
        ) from error
