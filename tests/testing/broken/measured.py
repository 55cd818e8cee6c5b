"""Evaluators, optimizers, schedules and trackers that are wrong, each in the way its name says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD

from metriclab.api import Rows, Score, register


class Nearest:
    """A good evaluator: whether the nearest other row of known label has the query's."""

    leaves_out = True

    def __call__(self, queries: Rows, gallery: Rows) -> dict[str, Score]:
        similarity = (queries.z @ gallery.z.T * 2**18).round()
        own = self.own(queries, gallery)
        similarity = similarity.masked_fill((gallery.labels < 0) | own, -torch.inf)
        alike = (queries.labels[:, None] == gallery.labels) & ~own
        counted = self.counted(queries, gallery, alike)
        return {"hit": self.score(self.found(similarity, alike), counted)}

    def own(self, queries, gallery):
        return (queries.items[:, None] == gallery.items) & self.leaves_out

    def found(self, similarity, alike):
        best = similarity == similarity.amax(1, keepdim=True)
        return (best & alike).sum(1) / best.sum(1)

    def counted(self, queries, gallery, alike):
        return (queries.labels >= 0) & alike.any(1)

    def score(self, found, counted):
        values = found.double().where(counted & found.isfinite(), torch.nan)
        return Score(float(values.nanmean()), values, "Share of queries whose nearest row is alike.")


class Refuses(Nearest):
    def __call__(self, queries, gallery):
        scores = super().__call__(queries, gallery)
        bad = not (queries.z.isfinite().all() and (self.blind or gallery.z.isfinite().all()))
        return {"hit": Score(float("nan"), torch.full((len(queries),), torch.nan), "x")} if bad else scores

    blind = False


@register("evaluator", "good")
class GoodEvaluator(Refuses):
    pass


@register("evaluator", "matches-itself")
class MatchesItself(Refuses):
    leaves_out = False


@register("evaluator", "finds-itself-in-a-copy")
class FindsItselfInACopy(Refuses):
    """Leave-one-out by object, and not by item."""

    def own(self, queries, gallery):
        return super().own(queries, gallery) & (gallery is queries)


@register("evaluator", "leaves-out-the-diagonal")
class LeavesOutTheDiagonal(Refuses):
    """Leave-one-out by position."""

    def own(self, queries, gallery):
        same = torch.equal(queries.items.sort().values, gallery.items.sort().values)
        return torch.eye(len(queries), len(gallery), dtype=torch.bool) & same


@register("evaluator", "finds-itself-in-one-number")
class FindsItselfInOneNumber(Refuses):
    leaves_out = False

    def score(self, found, counted):
        return Score(super().score(found, counted).value, torch.empty(0), "x")


@register("evaluator", "unknown-is-a-class")
class UnknownIsAClass(Refuses):
    def __call__(self, queries, gallery):
        sides = [replace(side, labels=side.labels + 1) for side in (queries, gallery)]
        return super().__call__(sides[0], sides[0] if gallery is queries else sides[1])


@register("evaluator", "unknown-is-wrong")
class UnknownIsWrong(Refuses):
    """Queries of unknown label count, and are never right."""

    def counted(self, queries, gallery, alike):
        return super().counted(queries, gallery, alike) | (queries.labels < 0)


@register("evaluator", "takes-the-first-that-ties")
class TakesTheFirst(Refuses):
    def found(self, similarity, alike):
        return alike.gather(1, similarity.argmax(1, keepdim=True))[:, 0]


@register("evaluator", "forgets-the-last-part")
class ForgetsTheLastPart(Refuses):
    """Queries in parts of 256: those that fill none keep the value they began with."""

    def score(self, found, counted):
        whole = len(found) // 256 * 256 or len(found)
        return super().score(torch.where(torch.arange(len(found)) < whole, found, 0), counted)


@register("evaluator", "counts-its-calls")
class CountsItsCalls(Refuses):
    """Stricter from its hundredth call on."""

    calls = 0

    def __call__(self, queries, gallery):
        self.calls += 1
        return super().__call__(queries, gallery)


@register("evaluator", "hides-nan-of-the-gallery")
class HidesNaNOfTheGallery(Refuses):
    blind = True

    def __call__(self, queries, gallery):
        other = replace(gallery, z=gallery.z.nan_to_num(0))
        return super().__call__(queries, queries if gallery is queries else other)


@register("evaluator", "breaks-ties-by-position")
class TiesByPosition(Refuses):
    """The first of the nearest."""

    def __call__(self, queries, gallery):
        label = gallery.labels[(queries.z @ gallery.z.T).mul(2).round().argmax(1)]
        return {"hit": self.score((label == queries.labels).double() * queries.z.sum(1).mul(0).add(1), label > -9)}


@register("evaluator", "hides-nan")
class HidesNaN(Nearest):
    def score(self, found, counted):
        values = found.double().nan_to_num(0)
        return Score(float(values.mean()), values, "x")

    def __call__(self, queries, gallery):
        clean = Rows(queries.z.nan_to_num(0), queries.labels, queries.items, queries.ids, queries.views)
        return super().__call__(clean, clean if gallery is queries else gallery)


@register("evaluator", "without-definition")
class WithoutDefinition(Refuses):
    def score(self, found, counted):
        return Score(super().score(found, counted).value, torch.empty(0))


@register("evaluator", "draws-globally")
class MeasuresASample(Refuses):
    """Half of the queries, others in each call."""

    def counted(self, queries, gallery, alike):
        return super().counted(queries, gallery, alike) & (torch.rand(len(queries)) < 0.5)


@register("evaluator", "centres-in-place")
class CentresInPlace(Refuses):
    def __call__(self, queries, gallery):
        queries.z.sub_(queries.z.mean(0))
        return super().__call__(queries, gallery)


@register("evaluator", "one-value-too-few")
class OneTooFew(Refuses):
    def score(self, found, counted):
        whole = super().score(found, counted)
        return Score(whole.value, whole.per_query[1:], "x")


@register("evaluator", "needs-matches")
class NeedsMatches(Refuses):
    def score(self, found, counted):
        return Score(float(found[counted].max()), torch.empty(0), "x")


def _groups(modules: Mapping[str, nn.Module], keep=lambda parameter: parameter.requires_grad):
    found = {id(p): p for module in modules.values() for p in module.parameters() if keep(p)}
    return [{"name": "all", "params": list(found.values()), "initial_lr": 0.1}]


class Upwards(SGD):
    """Climbs."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.neg_()
        return super().step()


class DecaysAnyway(SGD):
    """Decays at a rate of its own."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.999)
        return super().step()


class Counts(SGD):
    """Its steps are an attribute that no checkpoint has."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        for group in self.param_groups:
            group["lr"] /= self.steps
        return super().step()


@register("optimizer", "good")
def good_optimizer(modules: Mapping[str, nn.Module], /):
    return SGD(_groups(modules), lr=0.1, momentum=0.9)


@register("optimizer", "wrong-sign")
def wrong_sign(modules: Mapping[str, nn.Module], /):
    return Upwards(_groups(modules), lr=0.1)


@register("optimizer", "decays-anyway")
def decays_anyway(modules: Mapping[str, nn.Module], /):
    return DecaysAnyway(_groups(modules), lr=0.1)


@register("optimizer", "state-outside-buffers")
def counts(modules: Mapping[str, nn.Module], /):
    return Counts(_groups(modules), lr=0.1)


@register("optimizer", "trains-the-frozen")
def trains_the_frozen(modules: Mapping[str, nn.Module], /):
    return SGD(_groups(modules, keep=lambda parameter: True), lr=0.1)


@register("optimizer", "forgets-a-group")
def forgets_a_group(modules: Mapping[str, nn.Module], /):
    groups = _groups(modules)
    *some, last = groups[0]["params"]
    return FirstGroup([{**groups[0], "params": some}, {**groups[0], "name": "last", "params": [last]}], lr=0.1)


class FirstGroup(SGD):
    def step(self, closure=None):
        for parameter in self.param_groups[1]["params"]:
            parameter.grad = None
        return super().step()


@register("schedule", "good")
def good_schedule(total_steps: int, /):
    return lambda step: 1 - step / total_steps


@register("schedule", "counts-calls")
def counts_calls(total_steps: int, /):
    """Takes the number of calls for the step."""
    calls = iter(range(10**6))
    return lambda step: 1 / (1 + next(calls))


@register("schedule", "wears-off")
def wears_off(total_steps: int, /):
    """Falls from the thousandth call on."""
    calls = itertools.count()
    return lambda step: 1.0 if next(calls) < 1000 else 0.5


@register("schedule", "divides-by-zero")
def divides_by_zero(total_steps: int, /):
    return lambda step: 1 - step / (total_steps - 1)


@register("tracker", "good")
class GoodTracker:
    def __init__(self, folder: Path, /) -> None:
        self.folder = folder

    def log(self, step: int, values: Mapping[str, float]) -> None:
        with (self.folder / "log.txt").open("a") as file:
            file.write(f"{step} {dict(values)}\n")

    def close(self) -> None:
        pass


@register("tracker", "knows-the-first-names-alone")
class FixedColumns(GoodTracker):
    names = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.names = self.names or list(values)
        super().log(step, {name: values[name] for name in self.names})


@register("tracker", "refuses-a-resumed-run")
class NewFilesOnly(GoodTracker):
    def __init__(self, folder: Path, /) -> None:
        super().__init__(folder)
        (folder / "mine.txt").touch(exist_ok=False)


@register("tracker", "writes-elsewhere")
class Elsewhere(GoodTracker):
    def __init__(self, folder: Path, /) -> None:
        super().__init__(folder)
        (folder.parent / "mine.txt").touch()


@register("tracker", "truncates")
class Truncates(GoodTracker):
    """A new file each time."""

    def __init__(self, folder: Path, /) -> None:
        super().__init__(folder)
        (folder / "log.txt").write_text("")


@register("tracker", "rounds")
class Rounds(GoodTracker):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        super().log(step, {name: round(value, 4) for name, value in values.items()})


@register("tracker", "rounds-what-is-small")
class RoundsWhatIsSmall(GoodTracker):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        super().log(step, {name: round(value, 8) for name, value in values.items()})


@register("tracker", "writes-at-the-end")
class WritesAtTheEnd(GoodTracker):
    def __init__(self, folder: Path, /) -> None:
        super().__init__(folder)
        self.waiting: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.waiting.append((step, dict(values)))

    def close(self) -> None:
        for step, values in self.waiting:
            super().log(step, values)


@register("tracker", "never-flushes")
class NeverFlushes(GoodTracker):
    def __init__(self, folder: Path, /) -> None:
        super().__init__(folder)
        self.file = (folder / "log.txt").open("a")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.file.write(f"{step} {dict(values)}\n")

    def __del__(self) -> None:
        self.file.close()
