"""One run from its recipe to its result: trains, evaluates, saves, resumes. A generator that yields its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from metriclab import distributed
from metriclab.assembly.assemble import Training, assemble, build_evaluators
from metriclab.assembly.selection import require_loss, require_selectable
from metriclab.assembly.splits import Splits, benchmark, has_labels, load_splits, require_columns
from metriclab.core.protocols import Evaluator, Tracker
from metriclab.errors import MetriclabError, RecipeError, StorageError
from metriclab.evaluation.result import Pausing, final_result
from metriclab.recipe import Recipe
from metriclab.recipe.train import LOSS
from metriclab.registry import suggest
from metriclab.runs import checkpoint as checkpoints
from metriclab.runs.folder import RunFolder, releasing
from metriclab.runs.manifest import changes, manifest_of
from metriclab.training.agreement import require_same, require_same_recipe
from metriclab.training.alarms import logged, stop_if_diverged, warnings_of
from metriclab.training.averaging import WeightAverage
from metriclab.training.drift import drift_of, embed_followed
from metriclab.training.features import prepare, with_features
from metriclab.training.fit import StepResult, fit
from metriclab.training.imprint import imprint_proxies
from metriclab.training.interruption import Interrupted, unless_stopped
from metriclab.training.notices import notices
from metriclab.training.sampler_embeddings import use_source
from metriclab.training.status import RunNumbers, RunStatus, is_due
from metriclab.training.validation import ValLoss, val_metrics


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
    require_same_recipe(recipe)
    if resume:
        distributed.on_every_rank(lambda: folder.reopen(recipe))
        if distributed.broadcast_object(folder.result_file.exists()):
            yield RunStatus("finished", 0, 0, message=f"{folder.path} is finished already; nothing was run")
            return
        distributed.on_first_rank(folder.take)
    else:
        distributed.on_first_rank(folder.refuse_existing)
    with recipe.telling_places():
        run = yield from _begin(recipe, folder, resume=resume, quiet=quiet)
        try:
            yield from _finish(run, stop)
        finally:
            for tracker in run.trackers:
                tracker.close()


def _begin(recipe: Recipe, folder: RunFolder, *, resume: bool, quiet: bool) -> Generator[RunStatus, None, _Run]:
    """Loads and builds everything, says what the user should know, and writes the run folder's first files."""
    splits = distributed.on_every_rank(lambda: load_splits(recipe))
    newest = partial(checkpoints.read_newest_checkpoint, folder.checkpoints)
    saved, faults = distributed.on_every_rank(newest) if resume else (None, [])
    at_start = {"data": splits.fingerprints(), "checkpoint": saved and saved.step}
    require_same(at_start, help="let all ranks read the same files: the data, and the run folder where one is resumed")
    training = assemble(recipe, splits.train, initial=saved is None)
    evaluators = distributed.on_every_rank(lambda: build_evaluators(recipe))
    require_columns(training.method, evaluators, splits)
    distributed.on_every_rank(lambda: require_selectable(recipe, evaluators))
    distributed.on_every_rank(lambda: require_loss(recipe, splits, training.method))
    if saved is None:  # after what refuses a recipe, as these embed images
        distributed.on_every_rank(lambda: imprint_proxies(recipe, training))
        distributed.on_every_rank(lambda: use_source(recipe, training))
    if saved is None or saved.step < training.steps:
        prepare(recipe, training)
    fingerprint = benchmark(recipe, splits, evaluators)
    now = manifest_of(recipe, data=splits.fingerprints(), classes=splits.classes(), benchmark=fingerprint)
    now |= {} if training.statistics is None else {"statistics": training.statistics}
    run = _Run(recipe, folder, training, splits, evaluators, fingerprint)
    for fault in faults:
        yield RunStatus("train", 0, training.steps, message=f"{fault}; going on from an older one")
    if resume:
        for change in changes(folder, now):
            yield RunStatus("train", 0, training.steps, message=change)
    # Not before everything is built: a recipe that cannot run leaves no folder behind.
    distributed.on_first_rank(lambda: folder.begin(recipe, now, resume=resume))
    for text in notices(recipe, run.training, splits):
        yield RunStatus("train", 0, training.steps, message=text)
    if saved is not None:
        run.restore(saved)
    if resume:
        distributed.on_first_rank(lambda: folder.cut_metrics(run.start))
    try:
        run.trackers = distributed.on_every_rank(lambda: _trackers(recipe, folder, quiet))
    except MetriclabError:
        if not resume and distributed.rank() == 0:
            folder.withdraw()
        raise
    return run


def _finish(run: _Run, stop: Callable[[], bool]) -> Iterator[RunStatus]:
    """All steps that are left, and the result."""
    folder, total = run.folder, run.training.steps
    yield from run.train(stop)
    yield RunStatus("evaluate", total, total)
    yield from run.load_best()
    result, scores = unless_stopped(run.measure(), stop)
    for name, reason in result["missing"].items():
        yield RunStatus("evaluate", total, total, message=f"{name} is missing from the result: {reason}")
    distributed.on_first_rank(lambda: folder.finish(result, scores))
    if not run.settings.keep_checkpoints:
        distributed.on_first_rank(lambda: checkpoints.keep_weights(folder.checkpoints, run.numbers.best_step))
    yield RunStatus("finished", total, total)


def _trackers(recipe: Recipe, folder: RunFolder, quiet: bool) -> list[Tracker]:
    chosen = [one for one in recipe.trackers if not (quiet and one.name == "console")]
    return [one.build(folder.path) for one in chosen] if distributed.rank() == 0 else []


class _Run:
    """A run under way: what the loop's caller keeps between steps."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        training: Training,
        splits: Splits,
        evaluators: Mapping[str, Evaluator],
        benchmark: Mapping[str, Any],
    ) -> None:
        self.recipe, self.folder, self.training, self.splits = recipe, folder, training, splits
        self.evaluators, self.benchmark = evaluators, benchmark
        self.settings = recipe.train
        self.trackers: list[Tracker] = []
        self.drift, self.loss = drift_of(training, splits.val), ValLoss(recipe, training, splits)
        self.average = WeightAverage(training)
        self.numbers = RunNumbers()
        self.start = 0
        self.saved_step = -1

    def restore(self, saved: checkpoints.Checkpoint) -> None:
        """Goes on from a checkpoint."""
        for name, module in self._modules().items():
            checkpoints.restore_module(saved, name, module)
        self.average.swap()
        if self.training.optimizer is not None:
            checkpoints.restore_optimizer(saved, self.training.optimizer)
        self.numbers = RunNumbers.restored(saved.numbers)
        self.start = self.saved_step = saved.step

    def train(self, stop: Callable[[], bool]) -> Iterator[RunStatus]:
        """All steps that are left, with what is due between them."""
        total = self.training.steps
        yield RunStatus("train", self.start, total)
        if self.start == 0:
            self._follow_drift(0)
        clock = time.perf_counter()
        # Looking at a number waits for a GPU, so there it is done only where a number is shown.
        watched = self.training.device.type == "cpu"
        training = self.training if self.start == total else with_features(self.training)
        for step in fit(training, self.start):
            self.average.update(step.done)
            due = is_due(step.done, self.settings.log_every) or step.done == total
            # Before anything is saved or measured too: a checkpoint of NaN would be resumed for ever.
            if due or watched or self._is_used(step.done):
                stop_if_diverged(step, self.training.data, self.folder)
            self.numbers.seconds += time.perf_counter() - clock
            shown = logged(step, self.training.method) if due else {}
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
        return (has_labels(self.splits.val) or self.loss.reason is None) and (
            done == self.training.steps or (every is not None and is_due(done, every * self._epoch()))
        )

    def _is_followed(self, done: int) -> bool:
        return self.drift is not None and self.drift.is_due(done)

    def _is_used(self, done: int) -> bool:
        return self._is_saved(done) or self._is_measured(done) or self._is_followed(done)

    def _evaluate_and_save(self, step: StepResult) -> None:
        self._follow_drift(step.done)
        if self._is_measured(step.done):
            self._evaluate(step.done)
        if self._is_saved(step.done) or self.numbers.best_step == step.done:
            self._save(step.done)

    def _evaluate(self, done: int) -> None:
        by_loss = self.settings.select == LOSS
        with self.average.swapped():
            metrics = val_metrics(self.evaluators, self.training, self.splits.val)
            flat = {**metrics, **self.loss.measure()}
        flat = dict(sorted(flat.items(), key=lambda part: part[0] != f"val.{self.settings.select}"))  # it comes first
        self._log(done, flat)
        if f"val.{self.settings.select}" not in flat:
            if by_loss or not metrics:
                return  # and the last step is measured
            names = [name.removeprefix("val.") for name in flat]
            raise RecipeError(
                f"train.select = '{self.settings.select}' is no metric of this recipe",
                help=suggest(self.settings.select, names) or f"choose one of {', '.join(names)}",
            )
        value = flat[f"val.{self.settings.select}"] * (-1 if by_loss else 1)
        if value > self.numbers.best_value:
            self.numbers.best_step, self.numbers.best_value = done, value

    def _follow_drift(self, done: int) -> None:
        if self.drift is None or not self._is_followed(done):
            return
        measured = self.drift.follow(done, embed_followed(self.drift, self.training, self.splits.val))
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
        with self.average.swapped():
            captured = checkpoints.capture(done, self._modules(), self.training.optimizer, self.numbers.stored())
        checkpoints.save_checkpoint(self.folder.checkpoints, captured, keep=[self.numbers.best_step])

    def _modules(self) -> dict[str, nn.Module]:
        parts = {"method": self.training.method, "drift": self.drift, "sampler": self.training.sampler}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)} | self.average.modules()

    def load_best(self) -> Iterator[RunStatus]:
        """Puts the best checkpoint's weights into the method; where there is no whole one, the last step's stay."""
        self.average.swap()
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

    def measure(self) -> Pausing[tuple[dict[str, Any], dict[str, Tensor]]]:
        """The result of the run, and the scores of every query."""
        return final_result(
            self.recipe,
            self.training,
            self.splits,
            self.evaluators,
            benchmark=self.benchmark,
            best_step=self.numbers.best_step,
            seconds=self.numbers.seconds,
            warned=self.numbers.warned,
        )
