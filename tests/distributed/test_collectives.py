"""What several processes do together, against one process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn

from metriclab import distributed
from metriclab.core.rows import rows
from metriclab.testing import Share, on_ranks, two_ranks


class Outputs(NamedTuple):
    one: torch.Tensor
    other: dict


def weighted(rank: int, gathered: torch.Tensor) -> torch.Tensor:
    """A loss that differs by rank and looks at all rows."""
    weights = torch.arange(gathered.numel(), dtype=torch.float64).view_as(gathered) + 100 * rank
    return (weights * gathered.sin()).sum()


def gather_and_weigh(share: Share, z: torch.Tensor) -> dict[str, torch.Tensor]:
    mine = z[share.of(len(z))].clone().requires_grad_()
    gathered = distributed.gather(mine)
    (gradient,) = torch.autograd.grad(weighted(share.rank, gathered), mine)
    return {"gathered": gathered.detach(), "gradient": gradient}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("n", [7, 2])  # with 2 rows the last of 3 ranks may have none
def test_gather_joins_rows_and_its_backward_sums_over_ranks(ranks, n):
    z = torch.randn(n, 3, dtype=torch.float64)
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(sum(weighted(rank, leaf) for rank in range(ranks)), leaf)
    found = on_ranks(gather_and_weigh, ranks, z)
    for rank in range(ranks):
        assert torch.equal(found[rank]["gathered"], z)
        part = Share(rank, ranks).of(n)
        torch.testing.assert_close(found[rank]["gradient"], expected[part], atol=1e-13, rtol=0)


def some_need_gradients(share: Share, z: torch.Tensor) -> dict[str, torch.Tensor]:
    """Leaves of several types, one without a gradient and one that nobody uses; and how often ranks met."""
    part = share.of(len(z))
    single, double = z[part].float().requires_grad_(), z[part].clone().requires_grad_()
    unused = z[part].clone().requires_grad_()
    strided = z.long().T.contiguous().T[part, 1]
    tree = [single, {"double": double, "flags": z[part] > 0}, (unused, z[part].half()), z[part, :0], strided]
    with collectives() as met:
        joined = distributed.gather(tree)
        forward = len(met)
        (weighted(share.rank, joined[0]) + weighted(share.rank, joined[1]["double"])).backward()
    assert share.ranks == 1 or (forward, len(met)) == (2, 4)  # rows and bytes; each precision's sums on the way back
    assert joined[3].shape == (len(z), 0)
    assert torch.equal(joined[4], z[:, 1].long())
    assert [joined[0].requires_grad, joined[2][1].requires_grad, joined[3].requires_grad] == [True, False, False]
    assert torch.equal(joined[1]["flags"], z > 0)
    assert torch.equal(joined[2][1], z.half())
    assert not unused.grad.any() if unused.grad is not None else share.ranks == 1
    return {"single": single.grad, "double": double.grad}


@contextmanager
def collectives():
    """The names of the collectives that are called meanwhile."""
    met, real = [], {name: getattr(dist, name) for name in ("all_gather", "all_reduce", "reduce_scatter")}
    with pytest.MonkeyPatch.context() as patch:
        for name, call in real.items():
            patch.setattr(
                dist, name, lambda *given, name=name, call=call, **more: met.append(name) or call(*given, **more)
            )
        yield met


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_table_is_one_message_there_and_one_for_each_precision_back(ranks):
    z = torch.randn(5, 3, dtype=torch.float64)
    found = on_ranks(some_need_gradients, ranks, z)
    for name, dtype in (("single", torch.float32), ("double", torch.float64)):
        leaf = z.to(dtype).requires_grad_()
        (expected,) = torch.autograd.grad(sum(weighted(rank, leaf) for rank in range(ranks)), leaf)
        torch.testing.assert_close(torch.cat([of_rank[name] for of_rank in found]), expected)


def gather_trees(share: Share) -> list:
    z = torch.full((share.rank + 1, 2), float(share.rank))
    labels = torch.full((share.rank + 1,), share.rank)
    made = rows(z + 1, labels)
    joined, tree = distributed.gather((made, Outputs(labels, {"a": [z, z.bool()]})))
    assert type(tree) is Outputs
    assert len(joined.ids.unique()) == len(joined)
    return [joined.labels, tree.one, *tree.other["a"]]


def test_gather_takes_rows_tuples_lists_and_dicts():
    for labels, one, floats, flags in on_ranks(gather_trees, 3):
        assert labels.tolist() == one.tolist() == [0, 1, 1, 2, 2, 2]
        assert floats[:, 0].tolist() == [0, 1, 1, 2, 2, 2]
        assert flags[:, 1].tolist() == [False, True, True, True, True, True]


def test_gather_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="not str"):
        distributed.map_tensors(torch.sin, {"a": "text"})


def sums(share: Share) -> dict[str, torch.Tensor]:
    value = torch.tensor([1.0, share.rank], dtype=torch.float64, requires_grad=True)
    added = distributed.total_with_gradient(value)
    (gradient,) = torch.autograd.grad((added * (share.rank + 1)).sum(), value)
    return {
        "total": distributed.total(value),
        "mean": distributed.mean(value),
        "untouched": value.detach(),
        "added": added.detach(),
        "gradient": gradient,
        "objects": distributed.gather_objects(share.rank),
        "first": distributed.broadcast_object({"rank": share.rank}),
        "world": (distributed.rank(), distributed.world_size()),
    }


@pytest.mark.parametrize("ranks", [1, 3])
def test_totals_and_means(ranks):
    for rank, found in enumerate(on_ranks(sums, ranks)):
        everyone = list(range(ranks))
        assert found["total"].tolist() == found["added"].tolist() == [ranks, sum(everyone)]
        assert found["mean"].tolist() == [1, sum(everyone) / ranks]
        assert found["untouched"].tolist() == [1, rank]
        assert found["gradient"].tolist() == [sum(r + 1 for r in everyone)] * 2
        assert found["objects"] == everyone
        assert found["first"] == {"rank": 0}
        assert found["world"] == (rank, ranks)


def average(share: Share) -> list[torch.Tensor]:
    module = nn.ParameterList([torch.zeros(2, 3), torch.zeros(4, dtype=torch.float64), torch.zeros(1)])
    for parameter in (module[0], module[1]):
        parameter.grad = torch.full_like(parameter, float(share.rank**2))
    distributed.average_gradients(module.parameters())
    with torch.no_grad():
        module[2] += share.rank + 5
    distributed.broadcast_module(module)
    assert module[2].grad is None
    return [module[0].grad, module[1].grad, module[2].detach()]


def test_gradients_are_averaged_and_modules_made_equal():
    for first, second, third in on_ranks(average, 3):
        torch.testing.assert_close(first, torch.full((2, 3), 5 / 3))
        torch.testing.assert_close(second, torch.full((4,), 5 / 3, dtype=torch.float64))
        assert third.tolist() == [5.0]


def average_what_some_miss(share: Share) -> list:
    """The first only rank 0 has, the second only rank 2, the third nobody, the fourth all, the fifth is frozen."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(5)]
    parameters[4].requires_grad_(False)
    for place, owners in enumerate([{0}, {2}, set(), {0, 1, 2}]):
        if share.rank in owners:
            parameters[place].grad = torch.full((2,), 3.0 * (place + 1))
    distributed.average_gradients(parameters)
    return [parameter.grad for parameter in parameters]


def test_a_gradient_that_some_ranks_miss_is_averaged_as_zeros():
    for first, second, third, fourth, frozen in on_ranks(average_what_some_miss, 3):
        assert [first.tolist(), second.tolist(), fourth.tolist()] == [[1, 1], [2, 2], [12, 12]]
        assert third is None
        assert frozen is None


def mean_of_squares(share: Share, z: torch.Tensor) -> dict[str, torch.Tensor]:
    part = share.of(len(z))
    return {"mean": distributed.total(z[part].square().sum()) / len(z)}


def forgets_the_other_ranks(share: Share, z: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"mean": z[share.of(len(z))].square().mean()}


def raises_on_the_last(share: Share) -> None:
    if share.rank == share.ranks - 1:
        raise ValueError("no rows for me")


def test_two_ranks_compares_with_one_process():
    z = torch.randn(9, dtype=torch.float64)
    two_ranks(mean_of_squares, z)
    with pytest.raises(AssertionError, match="mean on rank 0 of 2 differs from one process by"):
        two_ranks(forgets_the_other_ranks, z)


def test_a_failure_on_a_rank_shows_its_traceback():
    with pytest.raises(AssertionError, match=r"(?s)rank 1 of 2:.*ValueError: no rows for me"):
        on_ranks(raises_on_the_last, 2)
    assert on_ranks(nothing, 2) == [[], []]  # the pool goes on


def nothing(share: Share) -> list:
    return []


def test_what_cannot_be_sent_is_said():
    with pytest.raises(AssertionError, match=r"functools\.partial in place of nested functions"):
        on_ranks(lambda share: 1, 1)


def test_shares_cover_all_rows_unequally():
    for n in (1, 6, 7, 50):
        for ranks in (1, 2, 3, 4):
            parts = [Share(rank, ranks).of(n) for rank in range(ranks)]
            assert [i for part in parts for i in range(n)[part]] == list(range(n))
    assert [part.stop - part.start for part in (Share(rank, 3).of(12) for rank in range(3))] == [6, 4, 2]


def meets(share: Share, last_meeting: int) -> tuple:
    """Five meetings of several kinds, where rank 1 fails after so many of them; then one more, which all come to."""
    z = torch.ones(share.rank + 1, 2, requires_grad=True)

    def action() -> float:
        kinds = (
            lambda: distributed.gather(z),
            lambda: distributed.total(z.sum()),
            distributed.barrier,
            lambda: distributed.broadcast_object("text"),
            lambda: distributed.gather(z).sum().backward(),
        )
        for done, meeting in enumerate(kinds):
            if share.rank == 1 and done == last_meeting:
                raise ValueError("no rows for me")
            meeting()
        if share.rank == 1 and last_meeting == len(kinds):
            raise ValueError("no rows for me")
        return 7.0

    found = distributed.act_together(action, str)
    return *found, float(distributed.total(torch.tensor(1.0)))


def test_a_rank_that_fails_alone_is_waited_for_by_none():
    for last_meeting in range(6):
        assert on_ranks(meets, 3, last_meeting) == [(None, [None, "no rows for me", None], 3.0)] * 3
    assert on_ranks(meets, 3, 6) == [(7.0, [None] * 3, 3.0)] * 3
    assert on_ranks(meets, 1, 0) == [(7.0, [None], 1.0)]
