"""Equal tuning: the same number of trials for every entry of a suite, chosen by folds of the training classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metriclab.comparison.launch import Event, Start, SuiteRun, launch, planned_run, short_reason
from metriclab.comparison.space import Search
from metriclab.comparison.suite import Suite
from metriclab.comparison.suite_entry import SuiteEntry
from metriclab.comparison.trials import FOLDER, Trial, TrialsFile, best_of, of_search, read_trials, require_same
from metriclab.errors import MetriclabError, StorageError
from metriclab.recipe import read_recipe
from metriclab.registry.toml import toml_value
from metriclab.runs.files import digest_of
from metriclab.runs.folder import RunFolder

_ATTEMPTS = 3  # of a run that a signal kills: who kills it need not be its settings
_REPLACED = ("data", "evaluate", "track")


class EntrySearch:
    """The search of one entry: which runs it wants next, and what has become of those before.

    Trials come one after the other, as each is proposed by the values of those before; the folds of one are run in any
    order. Where there are rungs (successive halving), every trial is trained for the first one's fraction of the steps,
    then the best of them anew for the next one's, as many as keep the sum of steps the same, up to all steps. A
    training of a rung is a whole one: its schedule ends with it. So each entry trains for as many steps as any other.

    Paper: Jamieson, Talwalkar. Non-stochastic Best Arm Identification and Hyperparameter Optimization. AISTATS 2016,
    arXiv 1502.07943 (successive halving).

    Args:
        suite: with a search.
        entry: one of its entries, with a space.
        out: the suite's folder.

    Raises:
        StorageError: where the folder holds trials of another search or more of them, or final runs before the end.
    """

    def __init__(self, suite: Suite, entry: SuiteEntry, out: Path) -> None:
        assert suite.search is not None
        self.search: Search = suite.search
        self.entry, self.metric, self.folder = entry, suite.metric, out / entry.folder / FOLDER
        space = [f"{one.key} = {one.described()}" for one in entry.space]
        self.of = of_search(self.search, self.metric, space, digest_of(entry.recipe.as_dict()))
        stored = read_trials(self.folder)
        if stored is not None:
            require_same(stored.of, self.of, self.folder)
        self.trials: list[Trial] = [] if stored is None else list(stored.trials)
        self._require_growth([out / entry.folder / f"seed-{seed}" for seed in suite.seeds])
        self.importance: Mapping[str, float] = {} if stored is None else stored.importance
        self.steps = [round((entry.recipe.train.steps or 0) * rung) for rung in (*self.search.rungs, 1.0)]
        self._is_written = stored is not None and stored.done and self.is_done
        self._under_way: dict[Path, tuple[int, int, int]] = {}
        self._outcomes: dict[tuple[int, int], dict[int, float | str]] = {}

    def _require_growth(self, finals: Sequence[Path]) -> None:
        """Refuses what would be in vain: fewer trials than there are, and final runs of what others were to choose."""
        have, asked = len(self.trials), self.search.trials
        if have > asked:
            told = f"{self.folder} holds {have} trials, and the suite asks for {asked}: only more can follow"
            raise StorageError(told, help=f"write trials = {have}, or choose another folder with --out")
        there = [str(folder) for folder in finals if folder.is_dir()]
        if have < asked and there:
            told = (
                f"'{self.entry.name}' has {have} of {asked} trials, and final runs already, of settings chosen before"
            )
            raise StorageError(
                told, help=f"move {', '.join(there)} away, and those of other searched entries; the trials are kept"
            )

    @property
    def is_done(self) -> bool:
        """Whether no trial is left to be run."""
        return len(self.trials) >= self.search.trials and not self._pending()

    def _pending(self) -> list[tuple[Trial, int]]:
        """Trials that have been proposed, and the rung that each has to be run at now."""
        begun = [(trial, 0) for trial in self.trials if not trial.values and trial.failed is None]
        if begun or len(self.trials) < self.search.trials:
            return begun
        for rung, count in enumerate(self.search.survivors()[1:], start=1):
            there = [trial for trial in self.trials if len(trial.values) >= rung]
            there.sort(key=lambda trial: (-(trial.value(rung - 1) or 0.0), trial.number))
            waiting = [trial for trial in there[:count] if len(trial.values) == rung and trial.failed is None]
            if waiting:
                return [(trial, rung) for trial in waiting]
        return []

    def wanted(self) -> list[SuiteRun]:
        """The runs that may begin now; none while earlier ones are under way, or at the end."""
        runs: list[SuiteRun] = []
        while not (runs or self._under_way or self.is_done):
            pending = self._pending()
            if not pending:
                from metriclab.comparison.proposals import propose

                params = propose(self.entry.name, self.entry.space, self.search, self.trials)
                self.trials.append(Trial(len(self.trials), params))
                self._write()
                pending = self._pending()
            for trial, rung in pending:
                for fold in range(self.search.folds):
                    run = self._run(trial, rung, fold)
                    self._under_way[run.folder] = (trial.number, rung, fold)
                    if run.state == "finished":  # by who was killed before it wrote so
                        self._told(run, None)
                    else:
                        runs.append(run)
        if self.is_done and not self._is_written:
            from metriclab.comparison.proposals import importance

            self.importance, self._is_written = importance(self.entry.space, self.trials), True
            self._write()
        return runs

    def told(self, run: SuiteRun, failed: str | None) -> list[SuiteRun]:
        """Takes the end of one of its runs, why it failed where it did, and says what may begin now."""
        self._told(run, failed)
        return self.wanted()

    def _told(self, run: SuiteRun, failed: str | None) -> None:
        number, rung, fold = self._under_way.pop(run.folder)
        outcomes = self._outcomes.setdefault((number, rung), {})
        outcomes[fold] = self._value(run) if failed is None else failed
        if len(outcomes) < self.search.folds:
            return
        in_order = [outcomes[fold] for fold in range(self.search.folds)]
        values = tuple(value for value in in_order if isinstance(value, float))
        reason = next((f"fold {at}: {told}" for at, told in enumerate(in_order) if isinstance(told, str)), None)
        trial = self.trials[number]
        after = replace(trial, failed=reason) if reason else replace(trial, values=(*trial.values, values))
        self.trials[number] = after
        self._write()

    def _value(self, run: SuiteRun) -> float | str:
        """What the held-out fold scored, or why it has no score."""
        evaluator, _, name = self.metric.partition(".")
        try:
            value = RunFolder(run.folder).result()["metrics"].get(evaluator, {}).get(name)
        except MetriclabError as error:
            return short_reason(error.message.splitlines(), run) or type(error).__name__
        return f"it has no value of {self.metric}" if value is None else float(value)

    def _run(self, trial: Trial, rung: int, fold: int) -> SuiteRun:
        """The training on all folds but one of a trial."""
        entry, steps = self.entry, self.steps[rung]
        data = entry.recipe.components["dataset"].as_dict()
        label = self.metric.partition(".")[0]
        evaluators = [one.as_dict() for one in entry.recipe.evaluators if one.label == label]
        own = {
            "data": {"name": "class-folds", "data": data, "folds": self.search.folds, "fold": fold},
            "evaluate": evaluators,
            "track": [{"name": "jsonl"}],
            "train.select": self.metric,
            "train.baselines": False,
            "train.steps": steps,
        }
        kept = [option for option in entry.options if not _is_replaced(option, own)]
        kept += [one.option(trial.params[one.key]) for one in entry.space]
        options = (*kept, *(f"{key}={toml_value(_without_none(value))}" for key, value in own.items()))
        at = f" of {steps} steps" if self.search.rungs else ""
        name = f"{entry.name}, trial {trial.number}{at}, fold {fold}"
        of_trial = SuiteEntry(name, entry.base, options, read_recipe(entry.base, options))
        folder = self.folder / f"trial-{trial.number:03d}" / f"{steps}-steps-fold-{fold}"
        return planned_run(of_trial, self.search.train_seed, folder)

    def runs_in_all(self) -> int:
        """How many trainings its trials are, those at all rungs together."""
        return self.search.folds * sum(self.search.survivors())

    def runs_left(self) -> int:
        """How many of them are to come; fewer where trials fail."""
        done = sum(len(trial.values) + (trial.failed is not None) for trial in self.trials)
        return 0 if self.is_done else self.runs_in_all() - done * self.search.folds

    def outlook(self) -> str:
        """What is to be run, in words."""
        counts = zip(self.search.survivors(), self.steps, strict=True)
        rungs = ", ".join(f"{count} of {steps} steps" for count, steps in counts)
        done = f"{self.runs_in_all() - self.runs_left()} of {self.runs_in_all()} runs done"
        return f"search       {self.entry.name}: {rungs}, each in {self.search.folds} folds; {done}"

    def file(self) -> TrialsFile:
        """What is written down."""
        return TrialsFile(self.of, self.trials, self.steps, self.search.folds, self.importance, self._is_written)

    def _write(self) -> None:
        self.file().write(self.folder)


def _is_replaced(option: str, own: Mapping[str, Any]) -> bool:
    key = option.partition("=")[0]
    return key.partition(".")[0] in _REPLACED or key in own


def _without_none(value: Any) -> Any:
    """TOML has no null, and not set is the default."""
    if isinstance(value, Mapping):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value


def searches_of(suite: Suite, out: Path) -> list[EntrySearch]:
    """One for each entry that has a space. Raises as `EntrySearch` does."""
    return [EntrySearch(suite, entry, out) for entry in suite.entries if entry.space] if suite.search else []


def tune(
    searches: Sequence[EntrySearch],
    *,
    jobs: int = 1,
    plugins: Sequence[Path] = (),
    stop: Callable[[], bool] = lambda: False,
    start: Start | None = None,
) -> Iterator[Event]:
    """Runs all trials that are left, and yields what becomes of each run; see `launch` for the arguments.

    Trials, choices and all numbers are the same however often it was stopped or killed, and for any number of jobs.

    Raises:
        PluginError: where Optuna is not installed.
    """
    owner: dict[Path, EntrySearch] = {}
    killed: dict[Path, int] = {}

    def owned(search: EntrySearch, runs: list[SuiteRun]) -> list[SuiteRun]:
        owner.update((run.folder, search) for run in runs)
        return runs

    def then(event: Event) -> list[SuiteRun]:
        run, search = event.run, owner[event.run.folder]
        if event.what == "stopped":
            return []
        if event.what == "failed" and event.code < 0:
            killed[run.folder] = killed.get(run.folder, 0) + 1
            if killed[run.folder] < _ATTEMPTS:
                return [run]
        return owned(search, search.told(run, event.reason if event.what == "failed" else None))

    first = [run for search in searches for run in owned(search, search.wanted())]
    return launch(first, jobs=jobs, plugins=plugins, stop=stop, patient=True, then=then, start=start)


def tuned(suite: Suite, out: Path) -> tuple[Suite, list[str]]:
    """The suite with the settings that its search has chosen, and what to say of entries in which every trial failed.

    Raises:
        StorageError: where a search is not finished, or none has found anything.
    """
    chosen: dict[str, SuiteEntry] = {}
    notes = []
    for search in searches_of(suite, out):
        if not search.is_done:
            told = f"the search of '{search.entry.name}' in {search.folder} is not finished"
            raise StorageError(told, help=f"finish it with: metriclab compare {suite.path} --out {out}")
        best, _ = best_of(search.trials)
        if best is None:
            notes.append(f"every trial of {search.entry.name} failed, the first with: {search.trials[0].failed}")
            continue
        entry = search.entry
        options = (*entry.options, *(one.option(best.params[one.key]) for one in entry.space))
        chosen[entry.name] = replace(entry, options=options, recipe=read_recipe(entry.base, options))
    entries = tuple(chosen.get(entry.name, entry) for entry in suite.entries if entry.name in chosen or not entry.space)
    if not entries:
        raise StorageError("; ".join(notes), help="see the log files for why")
    return replace(suite, entries=entries), notes
