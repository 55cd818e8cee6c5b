"""What every memory keeps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.core.protocols import Memory
from metriclab.core.rows import Rows, concatenate, rows
from metriclab.distributed import gather
from metriclab.registry import build
from metriclab.testing.cases import shuffle
from metriclab.testing.checks import Check, check, refusal, running, wanted
from metriclab.testing.pushes import FIELDS, held, pushed, pushes_for, same_rows
from metriclab.testing.ranks import Share, agree_on_ranks
from metriclab.testing.state import assert_stateless


def memory_checks(memory: Memory, *, ranks: bool = True) -> list[Check]:
    """Checks a memory from empty to overfull: everything that losses, methods and checkpoints rely on.

    What it holds never depends on the order of the rows in a push nor on the number of ranks; rows of no finite
    embedding are never stored, and none in `eval()`; saved at any step it goes on bit by bit; an empty place is seen by
    no loss. A memory that stores nothing, as proxies, passes too.

    Args:
        memory: the component, built, and small (some ten rows), so that it overflows here; it is copied, never
            changed. For `ranks` it must be picklable.
        ranks: whether to compare several ranks with one process (starts processes: seconds, once a session).

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    name = type(memory).__name__
    if not isinstance(memory, nn.Module):
        return refusal("state in buffers", f"{name} is no nn.Module: its state could not be saved")
    as_built = check("rows as built", _check_rows, name, memory, "as built")
    if not isinstance(memory.rows(), Rows):
        return [as_built]
    pushes = pushes_for(memory)
    on_copies = {
        "shapes, ids and origin of rows": _check_filling,
        "no graph kept": _check_gradient,
        "no NaN stored": _check_finite,
        "nothing stored in eval": _check_eval,
        "row order": _check_order,
        "empty places": _check_losses,
    }
    checks = [
        as_built,
        check("arguments unchanged", _on_copy, _check_arguments, name, memory, pushes),
        check("copies", _check_copies, name, memory, pushes),
        *(check(what, _on_copy, function, name, memory, pushes) for what, function in on_copies.items()),
        check("state saved", _check_saved, name, memory, pushes),
        check("several ranks", _check_ranks, name, memory, pushes, option="ranks"),
    ]
    return wanted(checks, ranks=ranks)


check_memory = running(memory_checks)


def _on_copy(function: Callable[[str, Any, list[Rows]], None], name: str, memory: Any, pushes: list[Rows]) -> None:
    function(name, _copy(memory), pushes)


def _check_ranks(name: str, memory: Any, pushes: list[Rows]) -> None:
    why = "Every rank pushes the rows of all ranks, in an order of its own: put them in the order of their ids"
    differs = "does not hold the same on several ranks"
    agree_on_ranks(name, differs, why, fill, _copy(memory), pushes, tolerance=0.0)


def fill(share: Share, memory: Any, pushes: list[Rows]) -> dict[str, Tensor]:
    """What it holds after each push of the gathered rows, which come view by view within each rank."""
    result: dict[str, Tensor] = {}
    for step, whole in enumerate(pushes):
        part = share.of(len(whole))
        local = whole[part]
        memory.push(gather(local[local.views.argsort(stable=True)]))
        now = held(memory)
        result |= {f"{field} after push {step}": getattr(now, field) for field in FIELDS}
    return result


def _copy(memory: Any) -> Any:
    return copy.deepcopy(memory).train()


def _same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _check_rows(name: str, memory: Any, when: str) -> None:
    read = memory.rows()
    assert isinstance(read, Rows), f"{name}.rows returns a {type(read).__name__}, not Rows"
    for field in FIELDS[1:]:
        key = getattr(read, field)
        assert len(key) == len(read.z), f"{name} has {len(key)} {field} for {len(read.z)} rows {when}"
        assert key.dtype == torch.int64, f"{name} has {field} of type {key.dtype} {when}, expected int64"
    assert read.z.dtype in (torch.float32, torch.float64), f"{name} gives {read.z.dtype} {when}: read it in float32"
    norm = read.z.detach().norm(dim=1)
    unit = ((norm - 1).abs() < 1e-5) | (norm == 0)
    assert bool(unit.all()), f"{name} holds a row of length {norm[~unit][0]:.3g} {when}: give rows of norm 1 or 0"
    known = (norm == 0) & (read.labels >= 0)  # none of the rows that are pushed here is zero
    assert not known.any(), f"{name} has an empty place of label {int(read.labels[known].max())} {when}: make it -1"
    assert len(set(read.ids.tolist())) == len(read), f"{name} has two rows of one id {when}; empty places need ids too"
    fresh = rows(torch.ones(64, 2), torch.zeros(64, dtype=torch.int64)).ids
    taken = torch.isin(fresh, read.ids).any()
    assert not taken, f"{name} has an id {when} that rows() gives to others: take negative ones far from 0"


def _check_arguments(name: str, memory: Any, pushes: list[Rows]) -> None:
    new = pushed(0, 7, memory.rows().embedding_dim)
    before = copy.deepcopy(new)
    memory.push(new)
    assert same_rows(before, new), f"{name}.push writes into the rows it is given"


def _check_filling(name: str, memory: Any, pushes: list[Rows]) -> None:
    size, first = memory.rows().z.shape, held(memory).ids
    for step, new in enumerate(pushes):
        memory.push(new)
        shape = memory.rows().z.shape
        assert shape == size, (
            f"{name} has rows of shape {tuple(shape)} after push {step}, {tuple(size)} before: shapes stay, so empty "
            "places are rows too"
        )
        _check_rows(name, memory, f"after push {step}")
        now = held(memory)
        _check_origin(name, now[(~torch.isin(now.ids, first)).nonzero()[:, 0]], concatenate(pushes[: step + 1]))


def _check_origin(name: str, found: Rows, all_pushed: Rows) -> None:
    """Every row found was pushed, and is what was pushed."""
    unknown = found.ids[~torch.isin(found.ids, all_pushed.ids)]
    assert len(unknown) == 0, f"{name} holds a row of id {int(unknown[0])}, which was never pushed"
    source = all_pushed[torch.searchsorted(all_pushed.ids, found.ids)]  # pushes come in the order of ids
    for field in FIELDS[1:]:
        one, other = getattr(found, field), getattr(source, field)
        assert torch.equal(one, other), (
            f"{name} gives rows back with {field} {one[one != other].tolist()[:5]}, which were pushed with "
            f"{other[one != other].tolist()[:5]}"
        )
    cosine = (found.z.double() * source.z.double()).sum(1)
    turned = cosine[cosine < 0.999]
    assert len(turned) == 0, f"{name} gives a row back whose cosine with what was pushed is {turned[0]:.3g}"


def _check_gradient(name: str, memory: Any, pushes: list[Rows]) -> None:
    # An older copy lives on in the memory: held by its graph, it would keep all activations of its step alive.
    new = pushes[0]
    z = new.z.clone().requires_grad_()
    memory.push(Rows(z, new.labels, new.items, new.ids, new.views))
    read = memory.rows().z
    linked = read.requires_grad and torch.autograd.grad(read.sum(), z, allow_unused=True)[0] is not None
    assert not linked, f"{name} keeps the graph of what is pushed: push under no_grad, or detach"


def _check_finite(name: str, memory: Any, pushes: list[Rows]) -> None:
    for step, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        new = copy.deepcopy(pushes[step * 2])
        new.z[0, 0] = value
        memory.push(new)
        now = memory.rows()
        poisoned = not bool(now.z.isfinite().all()) or bool((now.ids == new.ids[0]).any())
        assert not poisoned, f"{name} stores a row that holds {value}: one bad row would spoil every later loss"


def _check_eval(name: str, memory: Any, pushes: list[Rows]) -> None:
    memory.push(pushes[0])
    before, state = held(memory), copy.deepcopy(memory.state_dict())
    memory.eval()
    memory.push(pushes[2])
    same = same_rows(before, held(memory)) and _same_state(state, memory.state_dict())
    assert same, f"{name} stores rows in eval(): check self.training in push"


def _check_order(name: str, memory: Any, pushes: list[Rows]) -> None:
    other = _copy(memory)
    for step, new in enumerate(pushes):
        memory.push(new)
        other.push(new[shuffle(len(new))])
        same = same_rows(held(memory), held(other))
        assert same, (
            f"{name} holds something else after push {step} by the order of its rows, which differs between ranks: "
            "put them in the order of their ids"
        )


def _check_losses(name: str, memory: Any, pushes: list[Rows]) -> None:
    loss, anchors = build("loss", "contrastive"), pushed(99, 6, pushes[0].embedding_dim)
    for step, new in enumerate([pushes[3], *pushes]):  # the first is of no rows
        memory.push(new)
        z = anchors.z.clone().requires_grad_()
        read, now = memory.rows(), held(memory)
        value = loss(Rows(z, anchors.labels, anchors.items, anchors.ids, anchors.views), read)
        (gradient,) = torch.autograd.grad(value, z)
        assert bool(gradient.isfinite().all()), f"a loss against {name} has no finite gradient after {step} pushes"
        expected = loss(anchors, now)
        assert torch.allclose(value, expected, atol=1e-5), (
            f"a loss against {name} is {value} after {step} pushes, {expected} without its empty places: give those "
            "zero rows, unknown labels and ids of their own"
        )


def _check_saved(name: str, memory: Any, pushes: list[Rows]) -> None:
    whole = _copy(memory)
    for step, new in enumerate(pushes):
        resumed = _copy(memory)
        resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        for later in pushes[step:]:
            resumed.push(later)
        expected = _after(whole, pushes[step:])
        same = same_rows(held(resumed), held(expected)) and _same_state(resumed.state_dict(), expected.state_dict())
        assert same, (
            f"{name} goes on differently after its state was saved and loaded after {step} pushes: keep contents, "
            "pointer, count and ids in buffers"
        )
        whole.push(new)
    assert_stateless(name, whole, lambda: whole.push(pushes[0]), "keep state in buffers")


def _check_copies(name: str, memory: Any, pushes: list[Rows]) -> None:
    source = _after(memory, pushes[:3])
    ways: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("a deep copy", copy.deepcopy),
        ("a pickled copy", lambda one: pickle.loads(pickle.dumps(one))),
    )
    for way, make in ways:
        before = held(source)
        try:
            made = make(source)
        except Exception as error:
            raise AssertionError(f"no {way[2:]} of {name} can be made: {type(error).__name__}: {error}") from error
        assert same_rows(held(made), before), f"{way} of {name} holds something else"
        made.push(pushes[4])
        assert same_rows(held(source), before), f"a push into {way} of {name} changes the original: they share state"
        assert same_rows(held(made), held(_after(source, pushes[4:5]))), f"{way} of {name} goes on differently"


def _after(memory: Any, pushes: list[Rows]) -> Any:
    memory = _copy(memory)
    for new in pushes:
        memory.push(new)
    return memory
