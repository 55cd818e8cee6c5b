"""What every method keeps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.core.batch import Batch
from metriclab.core.network import embedding_function
from metriclab.core.promises import check_built, check_objective
from metriclab.distributed import map_tensors, mean
from metriclab.distributed.batch_norm import synchronize_batch_norm
from metriclab.testing.checks import Check, check, refusal, running, wanted
from metriclab.testing.ranks import Share, agree_on_ranks
from metriclab.testing.state import assert_stateless
from metriclab.testing.steps import check_descent, copy_of, take_step


def method_checks(
    method: Any, batch: Batch, *, steps: int = 3, descent: bool = True, ranks: bool = True
) -> list[Check]:
    """Checks a method on a small batch of the caller's: everything that a run relies on.

    It keeps its network as `network`. One step gives a finite scalar loss and a finite gradient for every trainable
    parameter that it reaches; steps lower its own loss, and that of a loss it was given; a moving average follows what
    it averages. `objective` has no side effects; state lives in buffers and parameters alone, so that a saved method
    goes on as it was; `embed` gives a row an image, whatever the others; and several ranks train exactly as one process
    does.

    All of it is tried in float64, in which a fault shows at 1e-12; a method that cannot compute in it, as one with a
    `.float()`, is tried in float32, and held to 1e-4.

    Args:
        method: an `nn.Module`, built; it is copied, never changed. For `ranks` it must be picklable.
        batch: a few images; at least 6, so that 3 ranks get some each. Floats of any precision. For a method that
            trains on features it may have both: views, which `embed` is tried on, and features.
        steps: of plain gradient descent, after which states are compared.
        descent: whether steps lower its loss, and averages follow slowly; one against an adversary may raise it.
        ranks: whether to compare several ranks with one process (starts processes: seconds, once a session).

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    name = type(method).__name__
    if not isinstance(method, nn.Module):
        return refusal("state in buffers", f"{name} is no nn.Module: its state could not be saved")
    checks = [
        check("loss and gradient of a step", _check_step, name, method, batch),
        check("descent", check_descent, name, method, batch, option="descent"),
        check("no side effects of objective", _check_effects, name, method, batch),
        check("state saved", _check_state, name, method, batch, steps),
        check("embed", _check_embed, name, method, batch),
        check("several ranks", _check_ranks, name, method, batch, steps, option="ranks"),
    ]
    return wanted(checks, descent=descent, ranks=ranks)


check_method = running(method_checks)


def _check_ranks(name: str, method: Any, batch: Batch, steps: int) -> None:
    why = (
        "Its objective must be the mean over ranks of what each rank returns; see apply_loss, and gather whatever the "
        "whole batch is needed for"
    )
    made, given = copy_of(method, batch)
    tolerance = 1e-12 if given.views[0].dtype == torch.float64 else 1e-4
    differs = "trains differently on several ranks"
    agree_on_ranks(name, differs, why, train, made, given, steps, tolerance=tolerance)


def train(share: Share, method: Any, batch: Batch, steps: int) -> dict[str, Tensor]:
    """Some steps as the loop takes them, on this rank's images; then all gradients, parameters, buffers, the loss."""
    method = synchronize_batch_norm(method) if share.ranks > 1 else method
    part = share.of(len(batch))
    losses = []
    for step in range(steps):
        local_batch = batch.slice(part.start, part.stop)
        losses.append(mean(take_step(method, local_batch, step)))
    state = {f"state {name}": value for name, value in method.state_dict().items()}
    gradients = {f"gradient of {name}": p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {"loss": torch.stack(losses), **gradients, **state}


def _check_step(name: str, method: Any, batch: Batch) -> None:
    check_built("method", method)
    method, batch = copy_of(method, batch)
    with torch.random.fork_rng(devices=[]):
        local = method(batch)
        objective = method.objective(local, local)
    check_objective(method, objective)
    loss = objective.loss
    assert bool(loss.isfinite()), f"{name}.objective returns {loss} on a plain batch"
    loss.backward()
    for key, parameter in method.named_parameters():
        bad = parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        assert not bad, f"the gradient of '{key}' in {name} is not finite after one plain step"


def _check_effects(name: str, method: Any, batch: Batch) -> None:
    method, batch = copy_of(method, batch)
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
    whole, batch = copy_of(method, batch)
    resumed = copy.deepcopy(whole)
    with torch.random.fork_rng(devices=[]):
        for step in range(steps):
            take_step(whole, batch, step)
        saved = copy.deepcopy(whole.state_dict())
        take_step(whole, batch, steps)
        resumed.load_state_dict(saved)
        take_step(resumed, batch, steps)
    assert _equal(whole.state_dict(), resumed.state_dict()), (
        f"{name} goes on differently after its state was saved and loaded: keep all state in buffers and parameters"
    )
    with torch.random.fork_rng(devices=[]):
        advice = "keep all state in buffers and parameters"
        assert_stateless(name, resumed, lambda: take_step(resumed, batch, steps), advice)


def _check_embed(name: str, method: Any, batch: Batch) -> None:
    method, batch = copy_of(method, batch)
    method.eval()
    with torch.no_grad():
        embedded = embedding_function(method)(batch.views[0])
        alone = embedding_function(method)(batch.views[0][:1])
    for part in ("h", "z"):
        rows, row = getattr(embedded, part), getattr(alone, part)
        assert rows.dim() == 2, f"{name}.embed gives {part} of shape {tuple(rows.shape)}, expected a row an image"
        assert len(rows) == len(batch), f"{name}.embed gives {len(rows)} rows of {part} for {len(batch)} images"
        close = 1e-9 if rows.dtype == torch.float64 else 1e-4
        assert torch.allclose(rows[:1], row, atol=close), (
            f"{name}.embed gives an image another {part} in company than alone: in eval() rows must not mix"
        )


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
