"""What every method keeps."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.core.batch import Batch
from metriclab.core.network import embedding_function
from metriclab.core.protocols import Method
from metriclab.distributed import average_gradients, gather, map_tensors, mean
from metriclab.distributed.batch_norm import synchronize_batch_norm
from metriclab.testing.checks import Check, check, refusal, run_all
from metriclab.testing.ranks import Share, pack, two_ranks


def check_method(method: Method, batch: Batch, *, steps: int = 3, ranks: bool = True) -> None:
    """Checks a method on a small batch of the caller's: everything that a run relies on.

    It keeps its network as `network`. One step gives a finite scalar loss and a finite gradient for every trainable
    parameter that it reaches; `objective` has no side effects; state lives in buffers and parameters alone, so that a
    saved method goes on as it was; `embed` gives a row an image, whatever the others; and several ranks train
    exactly as one process does, in float64 to 1e-12.

    Args:
        method: an `nn.Module`, built; it is copied, never changed. For `ranks` it must be picklable.
        batch: a few images; at least 6, so that 3 ranks get some each. Floats of any precision. For a method that
            trains on features it may have both: views, which `embed` is tried on, and features.
        steps: of plain gradient descent, after which states are compared.
        ranks: whether to compare several ranks with one process (starts processes: seconds, once a session).

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    run_all(method_checks(method, batch, steps=steps, ranks=ranks))


def method_checks(method: Any, batch: Batch, *, steps: int = 3, ranks: bool = True) -> list[Check]:
    """What `check_method` runs, one by one."""
    name = type(method).__name__
    if not isinstance(method, nn.Module):
        return refusal("state in buffers", f"{name} is no nn.Module: its state could not be saved")
    checks = [
        check("loss and gradient of a step", _check_step, name, method, batch),
        check("no side effects of objective", _check_effects, name, method, batch),
        check("state saved", _check_state, name, method, batch, steps),
        check("embed", _check_embed, name, method, batch),
    ]
    if ranks:
        checks.append(check("several ranks", _check_ranks, name, method, batch, steps))
    return checks


def _check_ranks(name: str, method: Any, batch: Batch, steps: int) -> None:
    pack(method)
    try:
        two_ranks(train, *_double(method, batch), steps)
    except AssertionError as error:
        raise AssertionError(
            f"{name} trains differently on several ranks: {error}. Its objective must be the mean over ranks of "
            "what each rank returns; see apply_loss, and gather whatever the whole batch is needed for"
        ) from error


def train(share: Share, method: Any, batch: Batch, steps: int) -> dict[str, Tensor]:
    """Some steps as the loop takes them, on this rank's images; then all gradients, parameters, buffers, the loss."""
    method = synchronize_batch_norm(method) if share.ranks > 1 else method
    part = share.of(len(batch))
    losses = []
    for step in range(steps):
        local_batch = batch.slice(part.start, part.stop)
        losses.append(mean(_step(method, local_batch, step)))
    state = {f"state {name}": value for name, value in method.state_dict().items()}
    gradients = {f"gradient of {name}": p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {"loss": torch.stack(losses), **gradients, **state}


def _step(method: Any, batch: Batch, step: int, rate: float = 0.1) -> Tensor:
    torch.manual_seed(step)  # as the loop does, so that dropout and the like resume too
    method.zero_grad()
    local = method(batch)
    world = gather(local)
    loss, _ = method.objective(local, world)
    loss.backward()
    average_gradients(method.parameters())
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(rate * parameter.grad)
        method.after_step(world, step)
    return loss.detach()  # type: ignore[no-any-return]


def _double(method: Any, batch: Batch) -> tuple[Any, Batch]:
    """A copy in float64, and the batch too."""
    views = tuple(view.double() for view in batch.views)
    features = None if batch.features is None else batch.features.double()
    return copy.deepcopy(method).double(), replace(batch, views=views, features=features)


def _check_step(name: str, method: Any, batch: Batch) -> None:
    network = isinstance(getattr(method, "network", None), nn.Module)
    assert network, f"{name} has no module `network`, from which a run takes encoder and head: keep what it is given"
    method, batch = _double(method, batch)
    with torch.random.fork_rng(devices=[]):
        local = method(batch)
        loss, metrics = method.objective(local, local)
    assert loss.shape == (), f"{name}.objective returns a loss of shape {tuple(loss.shape)}, not a scalar"
    assert bool(loss.isfinite()), f"{name}.objective returns {loss} on a plain batch"
    for key, value in metrics.items():
        assert isinstance(value, Tensor), f"metric '{key}' of {name} is a {type(value).__name__}, not a tensor"
        assert value.shape == (), f"metric '{key}' of {name} has shape {tuple(value.shape)}, not a scalar"
    loss.backward()
    for key, parameter in method.named_parameters():
        bad = parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        assert not bad, f"the gradient of '{key}' in {name} is not finite after one plain step"


def _check_effects(name: str, method: Any, batch: Batch) -> None:
    method, batch = _double(method, batch)
    with torch.random.fork_rng(devices=[]):
        local = method(batch)
        before, passed = copy.deepcopy(method.state_dict()), map_tensors(torch.clone, local)
        first, _ = method.objective(local, local)
        second, _ = method.objective(local, local)
    same = _equal(before, method.state_dict()) and bool(first == second)
    assert same, f"{name}.objective changes its state: what follows a step belongs in after_step"
    kept = all(torch.equal(one, other) for one, other in zip(_leaves(passed), _leaves(local), strict=True))
    assert kept, f"{name}.objective writes into its outputs"


def _leaves(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, tree)
    return found


def _check_state(name: str, method: Any, batch: Batch, steps: int) -> None:
    whole, batch = _double(method, batch)
    resumed = copy.deepcopy(whole)
    with torch.random.fork_rng(devices=[]):
        for step in range(steps):
            _step(whole, batch, step)
        saved = copy.deepcopy(whole.state_dict())
        _step(whole, batch, steps)
        resumed.load_state_dict(saved)
        _step(resumed, batch, steps)
    assert _equal(whole.state_dict(), resumed.state_dict()), (
        f"{name} goes on differently after its state was saved and loaded: keep all state in buffers and parameters"
    )


def _check_embed(name: str, method: Any, batch: Batch) -> None:
    method, batch = _double(method, batch)
    method.eval()
    with torch.no_grad():
        embedded = embedding_function(method)(batch.views[0])
        alone = embedding_function(method)(batch.views[0][:1])
    for part in ("h", "z"):
        rows, row = getattr(embedded, part), getattr(alone, part)
        assert rows.dim() == 2, f"{name}.embed gives {part} of shape {tuple(rows.shape)}, expected a row an image"
        assert len(rows) == len(batch), f"{name}.embed gives {len(rows)} rows of {part} for {len(batch)} images"
        assert torch.allclose(rows[:1], row, atol=1e-9), (
            f"{name}.embed gives an image another {part} in company than alone: in eval() rows must not mix"
        )


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
