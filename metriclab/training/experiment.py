"""One run from its recipe to its result: trains, evaluates, saves, resumes. A generator that yields its progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from metriclab import distributed
from metriclab.assembly.assemble import Training, assemble, build_evaluators
from metriclab.assembly.splits import Splits, has_labels, load_splits
from metriclab.core.protocols import Tracker
from metriclab.errors import RecipeError, StorageError
from metriclab.evaluation.evaluate import embed, embedding_settings, evaluating, run_evaluators, score_values
from metriclab.evaluation.result import final_result
from metriclab.recipe import Recipe
from metriclab.registry import suggest
from metriclab.runs import checkpoint as checkpoints
from metriclab.runs.folder import RunFolder, releasing
from metriclab.training.alarms import logged, stop_if_diverged, warnings_of
from metriclab.training.batches import coverage
from metriclab.training.chunks import batch_statistics
from metriclab.training.drift import drift_of, probe
from metriclab.training.features import with_features
from metriclab.training.fit import Step, fit
from metriclab.training.manifest import changes, manifest_of
from metriclab.training.status import RunStatus


class Interrupted(Exception):
    """The run was asked to stop; everything is saved and `--resume` continues it."""


@dataclass(slots=True)
class _Numbers:
    """The part of a run's state that is no tensor."""

    best_step: int = 0
    best_value: float = -math.inf
    seconds: float = 0.0
    warned: list[str] = field(default_factory=list)

    def stored(self) -> dict[str, Any]:
        best = self.best_value if math.isfinite(self.best_value) else None
        return {"best_step": self.best_step, "best_value": best, "seconds": self.seconds, "warned": self.warned}

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> _Numbers:
        best = stored["best_value"]
        return cls(stored["best_step"], -math.inf if best is None else best, stored["seconds"], list(stored["warned"]))


@releasing
def experiment(
    recipe: Recipe,
    folder: RunFolder,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> Iterator[RunStatus]:
    """Runs a recipe in a run folder to its result.

    Args:
        recipe: a checked recipe.
        folder: a new one, or with `resume` one that holds a run of this recipe.
        stop: asked after every step; True saves and raises `Interrupted`.
        quiet: leaves the console tracker out.

    Raises:
        Interrupted, MetriclabError: see their texts; what was saved before stays.
    """
    if resume:
        folder.reopen(recipe)
    else:
        distributed.on_first_rank(folder.refuse_existing)
    if resume and folder.result_file.exists():
        yield RunStatus("finished", 0, 0, message=f"{folder.path} is finished already; nothing was run")
        return
    if resume:
        distributed.on_first_rank(folder.take)
    run = yield from _begin(recipe, folder, resume=resume)
    total = run.training.steps
    try:
        if distributed.rank() == 0:
            run.trackers += _trackers(recipe, folder, quiet)
        yield from run.train(stop)
        yield RunStatus("evaluate", total, total)
        if stop():
            raise Interrupted
        yield from run.load_best()
        numbers = run.numbers
        measured = final_result(recipe, run.training, run.splits, numbers.best_step, numbers.seconds, numbers.warned)
        distributed.on_first_rank(lambda: folder.finish(*measured))
        if not recipe.train.keep_checkpoints:
            distributed.on_first_rank(lambda: checkpoints.keep_weights(folder.checkpoints, run.numbers.best_step))
        yield RunStatus("finished", total, total)
    finally:
        for tracker in run.trackers:
            tracker.close()


def _begin(recipe: Recipe, folder: RunFolder, *, resume: bool) -> Generator[RunStatus, None, _Run]:
    """Loads and builds everything, says what the user should know, and writes the run folder's first files."""
    splits = load_splits(recipe)
    saved, faults = checkpoints.read_newest_checkpoint(folder.checkpoints) if resume else (None, [])
    training = assemble(recipe, splits.train, initial=saved is None)
    run = _Run(recipe, folder, training, splits)
    for fault in faults:
        yield RunStatus("train", 0, training.steps, message=f"{fault}; going on from an older one")
    now = manifest_of(recipe, splits)
    if resume:
        for change in changes(folder, now):
            yield RunStatus("train", 0, training.steps, message=change)
    # Not before everything is built: a recipe that cannot run leaves no folder behind.
    distributed.on_first_rank(lambda: folder.begin(recipe, now, resume=resume))
    for text in (coverage(training), batch_statistics(training)):
        if text is not None:
            yield RunStatus("train", 0, training.steps, message=text)
    if not has_labels(splits.test):
        text = "the test split has no labels: the run trains and saves its encoder, but nothing can be measured"
        yield RunStatus("train", 0, training.steps, message=text)
    if saved is not None:
        run.restore(saved)
    if resume:
        distributed.on_first_rank(lambda: folder.cut_metrics(run.start))
    return run


def _trackers(recipe: Recipe, folder: RunFolder, quiet: bool) -> list[Tracker]:
    return [chosen.build(folder.path) for chosen in recipe.trackers if not (quiet and chosen.name == "console")]


class _Run:
    """A run under way: what the loop's caller keeps between steps."""

    def __init__(self, recipe: Recipe, folder: RunFolder, training: Training, splits: Splits) -> None:
        self.recipe, self.folder, self.training, self.splits = recipe, folder, training, splits
        self.settings = recipe.train
        self.trackers: list[Tracker] = []
        self.evaluators = build_evaluators(recipe)
        self.drift = drift_of(training, splits.val)
        self.numbers = _Numbers()
        self.start = 0
        self.saved_step = -1

    def restore(self, saved: checkpoints.Checkpoint) -> None:
        """Goes on from a checkpoint."""
        for name, module in self._modules().items():
            checkpoints.restore_module(saved, name, module)
        if self.training.optimizer is not None:
            checkpoints.restore_optimizer(saved, self.training.optimizer)
        self.numbers = _Numbers.restored(saved.numbers)
        self.start = self.saved_step = saved.step

    def train(self, stop: Callable[[], bool]) -> Iterator[RunStatus]:
        """All steps that are left, with what is due between them."""
        total = self.training.steps
        yield RunStatus("train", self.start, total)
        if self.start == 0:
            self._probe(0)
        clock = time.perf_counter()
        # Looking at a number waits for a GPU, so there it is done only where a number is shown.
        watched = self.training.device.type == "cpu"
        training = self.training if self.start == total else with_features(self.training)
        for step in fit(training, self.start):
            due = is_due(step.done, self.settings.log_every) or step.done == total
            # Before anything is saved or measured too: a checkpoint of NaN would be resumed for ever.
            if due or watched or self._is_used(step.done):
                stop_if_diverged(step, self.training.data, self.folder)
            self.numbers.seconds += time.perf_counter() - clock
            shown = logged(step) if due else {}
            if due:
                self._log(step.done, {**shown, "seconds": self.numbers.seconds})
            yield RunStatus("train", step.done, total, shown)
            for name, text in warnings_of(shown):
                if name not in self.numbers.warned:
                    self.numbers.warned.append(name)
                    yield RunStatus("train", step.done, total, message=text)
            self._evaluate_and_save(step)
            if (due or watched) and stop():
                self._save(step.done)
                raise Interrupted
            clock = time.perf_counter()

    def _epoch(self) -> int:
        assert self.training.sampler is not None
        return self.training.sampler.steps

    def _is_saved(self, done: int) -> bool:
        return is_due(done, self.settings.checkpoint_every or self._epoch()) or done == self.training.steps

    def _is_measured(self, done: int) -> bool:
        every = self.settings.evaluate_every
        return has_labels(self.splits.val) and (
            done == self.training.steps or (every is not None and is_due(done, every * self._epoch()))
        )

    def _is_probed(self, done: int) -> bool:
        return self.drift is not None and self.drift.is_due(done)

    def _is_used(self, done: int) -> bool:
        return self._is_saved(done) or self._is_measured(done) or self._is_probed(done)

    def _evaluate_and_save(self, step: Step) -> None:
        self._probe(step.done)
        if self._is_measured(step.done):
            self._evaluate(step.done)
        if self._is_saved(step.done) or self.numbers.best_step == step.done:
            self._save(step.done)

    def _evaluate(self, done: int) -> None:
        reading = embedding_settings(self.training)
        with evaluating(self.training.method) as encode:
            rows = getattr(embed(encode, self.splits.val, reading), self.settings.output)
        # What is chosen by these numbers has to be chosen alike on every rank.
        numbers = distributed.broadcast_object(score_values(run_evaluators(self.evaluators, rows, rows)))
        flat = {f"val.{name}.{metric}": value for name, part in numbers.items() for metric, value in part.items()}
        flat = dict(sorted(flat.items(), key=lambda part: part[0] != f"val.{self.settings.select}"))  # it comes first
        self._log(done, flat)
        if f"val.{self.settings.select}" not in flat:
            names = [name.removeprefix("val.") for name in flat]
            raise RecipeError(
                f"train.select = '{self.settings.select}' is no metric of this recipe",
                help=suggest(self.settings.select, names) or f"choose one of {', '.join(names)}",
            )
        value = flat[f"val.{self.settings.select}"]
        if value > self.numbers.best_value:
            self.numbers.best_step, self.numbers.best_value = done, value

    def _probe(self, done: int) -> None:
        if self.drift is None or not self._is_probed(done):
            return
        measured = self.drift.follow(done, probe(self.drift, self.training, self.splits.val))
        if measured:
            self._log(done, measured)

    def _log(self, done: int, shown: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(done, shown)

    def _save(self, done: int) -> None:
        if self.saved_step == done:
            return
        self.saved_step = done
        distributed.on_first_rank(lambda: self._write(done))

    def _write(self, done: int) -> None:
        captured = checkpoints.capture(done, self._modules(), self.training.optimizer, self.numbers.stored())
        checkpoints.save_checkpoint(self.folder.checkpoints, captured, keep=[self.numbers.best_step])

    def _modules(self) -> dict[str, nn.Module]:
        modules = {"method": self.training.method}
        return modules if self.drift is None else {**modules, "drift": self.drift}

    def load_best(self) -> Iterator[RunStatus]:
        """Puts the best checkpoint's weights into the method; where there is no whole one, the last step's stay."""
        last = self.training.steps
        best = self.numbers.best_step or last
        if best != last:
            try:
                checkpoints.restore_method(
                    checkpoints.read_checkpoint(self.folder.checkpoints, best), self.training.method
                )
            except StorageError as error:
                yield RunStatus("evaluate", last, last, message=f"{error.message}; measuring the last step instead")
                best = last
        self.numbers.best_step = best


def is_due(done: int, every: int | None) -> bool:
    """Whether something that happens every so many steps happens now."""
    return every is not None and done % every == 0
