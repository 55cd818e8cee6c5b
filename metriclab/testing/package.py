"""The kit over everything that a package, or a file, brings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from metriclab.errors import MetriclabError, PluginError
from metriclab.registry import ComponentEntry, Definition
from metriclab.registry.registry import load_entry
from metriclab.testing.components import definition_checks


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check of one component ended.

    Attributes:
        component: "loss 'mine'".
        check: its name, "" for what befell the component as a whole.
        status: "broken" for a component that cannot be loaded.
        text: what is wrong, or why it was left out.
    """

    component: str
    check: str
    status: Literal["ok", "wrong", "left out", "broken"]
    text: str = ""


def check_entries(entries: Collection[ComponentEntry], *, without: Collection[str] = ()) -> Iterator[Outcome]:
    """Every check of every component, one by one, each built from its defaults.

    A component that needs values which nobody can guess is left out, and that is said.

    Args:
        entries: the components.
        without: names of checks to leave out, each as one word: `row-order`.
    """
    for entry in entries:
        try:
            definition = load_entry(entry)
        except PluginError as error:
            yield Outcome(str(entry), "", "broken", str(error))
        else:
            yield from _outcomes(definition, without)


def _outcomes(definition: Definition, without: Collection[str]) -> Iterator[Outcome]:
    entry = definition.entry
    needed = [parameter.name for parameter in definition.parameters if parameter.required]
    if needed:
        values = ", ".join(f'"{name}": ...' for name in needed)
        yield Outcome(
            str(entry),
            "",
            "left out",
            f"it needs {', '.join(needed)}, which have no defaults: test it by conformance("
            f'"{entry.kind}", "{entry.name}", {{{values}}}) of metriclab.testing.pytest',
        )
        return
    try:
        checks = definition_checks(definition, {})
    except MetriclabError as error:
        yield Outcome(str(entry), "", "left out", f"it cannot be built from its defaults alone: {error.message}")
        return
    except Exception as error:
        yield Outcome(str(entry), "", "wrong", f"building it raises {_told(error)}")
        return
    for check in checks:
        if check.slug in without:
            yield Outcome(str(entry), check.name, "left out", "as asked for")
            continue
        try:
            check.run()
        except Exception as error:
            text = str(error) if isinstance(error, AssertionError) else f"it raises {_told(error)}"
            yield Outcome(str(entry), check.name, "wrong", text)
        else:
            yield Outcome(str(entry), check.name, "ok")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
