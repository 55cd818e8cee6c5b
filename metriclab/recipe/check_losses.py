"""The checks of `[[loss]]`: those of each table, and of the tables beside each other and beside the rest."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from metriclab.recipe.check_component import ComponentChecker
from metriclab.recipe.losses import LossEntry, LossList, LossOptions, wrong_dims
from metriclab.recipe.spec import LABEL, ComponentSpec
from metriclab.recipe.train import parameters
from metriclab.registry import KINDS
from metriclab.registry.values import check_values

_LOSS = KINDS["loss"]
_OPTIONS = {parameter.name: parameter for parameter in parameters(LossOptions)}

Said = Iterator[tuple[str, str, str]]
"""The key of a table, what is wrong with it, and the repair."""


def check_losses(
    checker: ComponentChecker, tables: list[Any], others: Mapping[str, ComponentSpec | None]
) -> LossList | None:
    """The losses of a list of tables; problems go to the checker.

    Args:
        checker: holds the document.
        tables: what stands in the document as `loss`.
        others: the components of the recipe by kind, None where there is none.
    """
    if not tables:
        checker.report(checker.document.key("loss"), "[[loss]] has no table", "add one with a name, or write [loss]")
    if others.get("miner") is not None:
        message = "[miner] stands beside [[loss]], where each loss has a miner of its own"
        help = 'write miner = { name = "..." } in the [[loss]] that it is for'
        checker.report(checker.document.key("miner"), message, help)
    entries = []
    for index, table in enumerate(tables):
        entry = _entry(checker, table, index)
        if entry is not None:
            entries.append((index, entry))
            for key, message, help in _misfits(entry, others):
                checker.report(checker.document.value("loss", index, key), message, help)
    _names(checker, entries)
    return LossList(tuple(entry for _, entry in entries)) if entries else None


def _entry(checker: ComponentChecker, table: Any, index: int) -> LossEntry | None:
    if not isinstance(table, dict):
        checker.check(_LOSS, table, "loss", index)
        return None
    definition = checker.definition(_LOSS, table.get("name"), "loss", index)
    own = [] if definition is None else [parameter.name for parameter in definition.parameters]
    given = {key: value for key, value in table.items() if key in _OPTIONS and key not in own}
    filled, problems = check_values("[[loss]]", LossOptions, tuple(_OPTIONS.values()), given)
    checker.problems += [checker.document.problem(problem, "loss", index) for problem in problems]
    label = checker.label(table[LABEL], "loss", index) if LABEL in table else table.get("name")
    table_of_miner = given.get("miner")
    miner = checker.check(KINDS["miner"], table_of_miner, "loss", index, "miner") if table_of_miner else None
    if definition is None:
        return None
    params = {key: value for key, value in table.items() if key not in (*given, "name", LABEL)}
    params = checker.parameters(definition, params, "loss", index)
    if problems:
        return None
    spec = ComponentSpec("loss", table["name"], params, definition, str(label), checker.document, ("loss", index))
    options = LossOptions.model_validate({**filled, "miner": None})
    mining = None if miner is None or miner.name == "none" else miner
    return LossEntry(spec, options, mining)


def _names(checker: ComponentChecker, entries: list[tuple[int, LossEntry]]) -> None:
    """Each loss is logged under a name of its own."""
    first: dict[str, int] = {}
    for index, entry in entries:
        for name, _ in entry.parts():
            before = first.setdefault(name, index)
            if before != index:
                line = checker.document.key("loss", before).line
                place = checker.document.value("loss", index, LABEL if entry.spec.label == name else "name")
                message = f"loss '{name}' is there twice" + (f", first on line {line}" if line else "")
                checker.report(place, message, f'keep one of them, or call one of them something else: {LABEL} = "..."')
                break


def _misfits(entry: LossEntry, others: Mapping[str, ComponentSpec | None]) -> Said:
    """What of a table does not go together with itself or with the rest of the recipe."""
    options, factory = entry.options, entry.spec.definition.factory
    head, dims = others.get("head"), options.dims
    limit = None if head is None else head.params.get("embedding_dim")
    yield from (("dims", *said) for said in wrong_dims(dims if isinstance(dims, list) else [dims], limit))
    loss, memory = f"loss '{entry.spec.name}'", others.get("memory")
    for_classes = getattr(factory, "needs_memory", False)
    if entry.miner is not None and inspect.isclass(factory) and not _takes_miner(factory):
        help = "remove it, or name a loss over pairs, such as contrastive"
        yield "miner", f"{loss} takes no miner: it is no loss over pairs", help
    if for_classes and (memory is None or options.against == "batch"):
        message = f"{loss} holds images against learned rows of classes, and "
        if memory is None:
            yield "name", f"{message}there is no memory", 'add [memory] with name = "proxies"'
        else:
            yield "against", f"{message}not against the batch", "leave against out"
    elif options.against == "batch" and memory is None:
        yield "against", 'against = "batch" has no effect: there is no memory, and so it is', "leave it out"
    if options.labels == "item":
        yield from _wrong_items(loss, for_classes or bool(entry.spec.definition.given), memory, others.get("views"))


def _wrong_items(loss: str, by_class: bool, memory: ComponentSpec | None, views: ComponentSpec | None) -> Said:
    if by_class:
        help = 'leave out labels = "item", or choose a loss such as nt-xent'
        yield "labels", f"{loss} learns a row for each class, and cannot tell images apart", help
    elif memory is None and views is not None and views.params.get("count") == 1:
        message = 'labels = "item" finds no positive: [views] makes one view of an image'
        yield "labels", message, "set views.count = 2, or choose views that are drawn at random, such as simclr"


def _takes_miner(factory: Any) -> bool:
    from metriclab.core.call_loss import takes_miner

    return takes_miner(factory)
