"""The numbers of a run: metrics beside their baselines, curves of robustness, health, costs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from metriclab.report.charts import Series, legend, lines
from metriclab.report.html import Markup, Number, Section, join, section, short, table, tag
from metriclab.report.labels import compact, cost, label, metric_label, number

_SEVERITY = re.compile(r"^(.+)_(\d+)$")
Parts = Mapping[str, Mapping[str, Any]]


def is_robustness(part: Mapping[str, Any]) -> bool:
    """Whether an evaluator measured under corruptions."""
    return "clean" in part and "corrupted" in part


def is_health(part: Mapping[str, Any]) -> bool:
    """Whether an evaluator looked at the shape of the embeddings."""
    return "uniformity" in part and "effective_rank" in part


def columns(result: Mapping[str, Any]) -> dict[str, Parts]:
    """What a run measured, by the name of the column: trained by either output, and its baselines."""
    metrics: Parts = result["metrics"]
    other = "-h" if result.get("output", "h") == "z" else "-z"
    own = {name: part for name, part in metrics.items() if name in result["definitions"]}
    of_other = {name.removesuffix(other): part for name, part in metrics.items() if name not in own}
    named = {"trained": own, f"output {other[1:]}": of_other} if of_other else {"trained": own}
    return {**named, **{label(name): parts for name, parts in result["baselines"].items()}}


class Notes:
    """Definitions that a table refers to by number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> Markup | None:
        """A link to the definition, which is its tooltip too."""
        if not text:
            return None
        if text not in self.texts:
            self.texts.append(text)
        at = self.texts.index(text) + 1
        return tag("sup", tag("a", at, href=f"#note-{at}", title=text, aria_label=f"definition {at}"))

    def listed(self) -> Markup | None:
        """All definitions, readable."""
        if not self.texts:
            return None
        items = [tag("li", text, id=f"note-{at}") for at, text in enumerate(self.texts, 1)]
        return tag("details", tag("summary", "How each number is defined"), tag("ol", items, class_="notes"))


def metrics_section(result: Mapping[str, Any], notes: Notes) -> Section:
    """One table an evaluator, the trained encoder beside its baselines."""
    found = columns(result)
    tables = [
        _evaluator(name, part, found, result["definitions"], notes)
        for name, part in found["trained"].items()
        if not is_robustness(part) and not is_health(part)
    ]
    lead = f"{result['protocol'][:1].upper()}{result['protocol'][1:]}, {result['items']['test']:,} images."
    if not any(tables):
        lead += f" {_nothing(found['trained'])}"
    return section("metrics", "Metrics", *tables, lead=lead)


def _nothing(trained: Parts) -> str:
    """Why there is no number."""
    if any(part.get("queries_without_matches") for part in trained.values()):
        return "No query has another image of its class to be held against, so there is nothing to measure."
    return "The test images have no labels, so there is nothing to measure."


def _evaluator(
    name: str, part: Mapping[str, Any], found: Mapping[str, Parts], definitions: Parts, notes: Notes
) -> Markup | None:
    if all(value is None for metric, value in part.items() if metric != "queries_without_matches"):
        return None
    shown = {column: parts[name] for column, parts in found.items() if name in parts}
    rows = []
    for metric in part:
        values = [parts.get(metric) for parts in shown.values()]
        if metric == "queries_without_matches" and not any(values):
            continue
        head = join(label(metric), notes.mark(definitions.get(name, {}).get(metric, "")))
        rows.append([head, *map(number, values)])
    return table([name, *shown], rows, caption=f"{name}: trained, and baselines", class_="main")


def robustness_sections(result: Mapping[str, Any], notes: Notes) -> Iterator[Section]:
    """For each evaluator under corruptions: what is left, by severity, and the means."""
    found = columns(result)
    for name, part in found["trained"].items():
        if is_robustness(part):
            shown = {column: parts[name] for column, parts in found.items() if name in parts}
            lead = _measured_by(result["definitions"].get(name, {}), result["protocol"])
            yield _robustness(name, shown, result["definitions"].get(name, {}), lead, notes)


def _measured_by(definitions: Mapping[str, str], protocol: str) -> str:
    """Which metric the curves show, and why it need not be the one of the first table."""
    told = definitions.get("clean", "").partition(",")[0]  # "map_at_r of retrieval, clean queries; ..."
    metric, _, evaluator = told.partition(" of ")
    said = metric_label(f"{evaluator}.{metric}") if evaluator else "The metric"
    lead = f"{said} when the queries are corrupted; severity 0 is the clean image."
    if protocol.startswith("leave-one-out"):
        lead += " Half of each class asks and the other half is searched, so that no query meets its own clean image."
    return lead


def _robustness(name: str, shown: Parts, definitions: Mapping[str, str], lead: str, notes: Notes) -> Section:
    by_kind = {column: _curves(part) for column, part in shown.items()}
    used = [column for column in by_kind if by_kind[column]]
    every = [y for curves in by_kind.values() for curve in curves.values() for _, y in curve]
    charts = []
    for kind in by_kind["trained"]:
        drawn = [
            Series(column, [x for x, _ in by_kind[column][kind]], [y for _, y in by_kind[column][kind]], at)
            for at, column in enumerate(used)
            if kind in by_kind[column]
        ]
        charts.append(lines(label(kind), drawn, x_name="severity", within=every))
    rows = [
        [join(label(metric), notes.mark(definitions.get(metric, ""))), *(number(p.get(metric)) for p in shown.values())]
        for metric in ("clean", "corrupted", "relative_drop")
        if metric in shown["trained"]
    ]
    means = table([name, *shown], rows, caption=f"{name}: means over corruptions and severities")
    return section(name, name.capitalize(), means, legend(used), tag("div", charts, class_="charts"), lead=lead)


def _curves(part: Mapping[str, Any]) -> dict[str, list[tuple[Number, Number]]]:
    """By corruption, the metric at each severity."""
    curves: dict[str, list[tuple[Number, Number]]] = {}
    for metric, value in part.items():
        found = _SEVERITY.match(metric)
        if found and value is not None:
            curves.setdefault(found[1], []).append((float(found[2]), float(value)))
    start = [] if part.get("clean") is None else [(0.0, float(part["clean"]))]
    return {kind: sorted([*start, *curve]) for kind, curve in curves.items()}


def health_sections(result: Mapping[str, Any]) -> Iterator[Section]:
    """For each evaluator of health: its figures, each with what it means."""
    found = columns(result)
    for name, part in found["trained"].items():
        if is_health(part):
            shown = {column: parts[name] for column, parts in found.items() if name in parts}
            texts = result["definitions"].get(name, {})
            rows = [[label(metric), *(number(p.get(metric)) for p in shown.values())] for metric in part]
            meant = [tag("div", tag("dt", label(metric)), tag("dd", texts.get(metric))) for metric in part]
            figures = table([name, *shown], rows, caption=f"{name} of the embeddings")
            lead = (
                "Lower alignment and uniformity are better. An effective rank near 1 is a collapse. The farther "
                "hubness is above 0, the more some images are found for nearly every query."
            )
            yield section(name, name.capitalize(), figures, tag("dl", meant, class_="meanings"), lead=lead)


def costs_section(result: Mapping[str, Any]) -> Section:
    """What the run cost."""
    rows = [
        ("steps", f"{result['steps']:,}"),
        ("images seen", compact(result["images_seen"])),
        *((label(name), cost(name, value).shown) for name, value in result["cost"].items() if value is not None),
    ]
    return section("costs", "Costs", facts(rows))


def facts(rows: list[tuple[str, Any]]) -> Markup:
    """Names and values, side by side."""
    items = [tag("div", tag("dt", name), tag("dd", short(str(value), 400))) for name, value in rows]
    return tag("dl", items, class_="facts")
