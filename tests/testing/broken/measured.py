"""Evaluators, optimizers, schedules and trackers that are wrong, each in the way its name says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD

from metriclab.api import Rows, Score, register


class Nearest:
    """A good evaluator: whether the nearest other row of known label has the query's."""

    def __call__(self, queries: Rows, gallery: Rows) -> dict[str, Score]:
        similarity = (queries.z @ gallery.z.T * 2**18).round()
        similarity = similarity.masked_fill(gallery.labels < 0, -torch.inf)
        if gallery is queries and self.leaves_out:
            similarity = similarity.masked_fill(queries.items[:, None] == gallery.items, -torch.inf)
        best = similarity == similarity.amax(1, keepdim=True)
        alike = queries.labels[:, None] == gallery.labels
        found = (best & alike).sum(1) / best.sum(1)
        return {"hit": self.score(found, self.counted(queries, gallery, alike))}

    leaves_out = True

    def counted(self, queries, gallery, alike):
        others = alike & (queries.items[:, None] != gallery.items) if gallery is queries else alike
        return (queries.labels >= 0) & (others if self.leaves_out else alike).any(1)

    def score(self, found, counted):
        values = found.double().where(counted & found.isfinite(), torch.nan)
        return Score(float(values.nanmean()), values, "Share of queries whose nearest row is alike.")


class Refuses(Nearest):
    def __call__(self, queries, gallery):
        scores = super().__call__(queries, gallery)
        bad = ~queries.z.isfinite().all() | ~gallery.z.isfinite().all()
        return {"hit": Score(float("nan"), torch.full((len(queries),), torch.nan), "x")} if bad else scores


@register("evaluator", "good")
class GoodEvaluator(Refuses):
    pass


@register("evaluator", "matches-itself")
class MatchesItself(Refuses):
    leaves_out = False


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


@register("schedule", "good")
def good_schedule(total_steps: int, /):
    return lambda step: 1 - step / total_steps


@register("schedule", "counts-calls")
def counts_calls(total_steps: int, /):
    """Takes the number of calls for the step."""
    calls = iter(range(10**6))
    return lambda step: 1 / (1 + next(calls))


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
