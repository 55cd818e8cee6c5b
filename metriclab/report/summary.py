"""The numbers of a run: metrics beside their baselines, curves of robustness, health, costs, and what it was."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metriclab.registry.kinds import BUILTIN
from metriclab.report.blocks import Cell, Charts, Code, Facts, Notes, Number, Section, Table, shorten
from metriclab.report.charts import Series, draw_lines, make_legend
from metriclab.report.labels import (
    describe_baselines,
    format_compact,
    format_cost,
    format_number,
    label,
    metric_label,
    own_column,
)
from metriclab.runs.files import to_json
from metriclab.runs.folder import RunFolder

_SEVERITY = re.compile(r"^(.+)_(\d+)$")
Parts = Mapping[str, Mapping[str, Any]]


def is_robustness(part: Mapping[str, Any]) -> bool:
    """Whether an evaluator measured under corruptions."""
    return "clean" in part and "corrupted" in part


def is_health(part: Mapping[str, Any]) -> bool:
    """Whether an evaluator looked at the shape of the embeddings."""
    return "uniformity" in part and "effective_rank" in part


def columns(result: Mapping[str, Any]) -> dict[str, Parts]:
    """What a run measured, by the name of the column: its own network first, by either output, and its baselines."""
    metrics: Parts = result["metrics"]
    other = "-h" if result.get("output", "h") == "z" else "-z"
    own = {name: part for name, part in metrics.items() if name in result["definitions"]}
    of_other = {name.removesuffix(other): part for name, part in metrics.items() if name not in own}
    named = {own_column(result): own} | ({f"output {other[1:]}": of_other} if of_other else {})
    return {**named, **{label(name): parts for name, parts in result["baselines"].items()}}


def _columns_of(evaluator: str, result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {column: parts[evaluator] for column, parts in columns(result).items() if evaluator in parts}


def metrics_section(result: Mapping[str, Any], notes: Notes) -> Section:
    """One table an evaluator, the trained encoder beside its baselines, and the definitions of all numbers."""
    trained = columns(result)[own_column(result)]
    tables = [
        table
        for name, part in trained.items()
        if not is_robustness(part) and not is_health(part) and (table := _metrics_table(name, part, result, notes))
    ]
    lead = f"{result['protocol'][:1].upper()}{result['protocol'][1:]}, {result['items'].get('test', 0):,} images."
    lead = f"{lead} {describe_baselines(result['baselines'])}".rstrip()
    return Section("metrics", "Metrics", [*tables, notes], lead if tables else f"{lead} {_say_nothing(trained)}")


def _say_nothing(trained: Parts) -> str:
    """Why there is no number."""
    if any(part.get("queries_without_matches") for part in trained.values()):
        return "No query has another image of its class to be held against, so there is nothing to measure."
    return "The test images have no labels, so there is nothing to measure."


def _metrics_table(evaluator: str, part: Mapping[str, Any], result: Mapping[str, Any], notes: Notes) -> Table | None:
    if all(value is None for metric, value in part.items() if metric != "queries_without_matches"):
        return None
    shown, definitions = _columns_of(evaluator, result), result["definitions"].get(evaluator, {})
    metrics = [
        metric
        for metric in part
        if metric != "queries_without_matches" or any(parts.get(metric) for parts in shown.values())
    ]
    rows = _rows(metrics, shown, definitions, notes)
    return Table(f"{evaluator}: {own_column(result)}, and baselines", [evaluator, *shown], rows, style="main")


def _rows(metrics: list[str], shown: Parts, definitions: Mapping[str, str], notes: Notes | None) -> list[list[Cell]]:
    heads = [notes.refer(label(one), definitions.get(one, "")) if notes else label(one) for one in metrics]
    values = [[format_number(part.get(metric)) for part in shown.values()] for metric in metrics]
    return [[Cell(head), *row] for head, row in zip(heads, values, strict=True)]


def robustness_sections(result: Mapping[str, Any], notes: Notes) -> Iterator[Section]:
    """For each evaluator under corruptions: what is left, by severity, and the means."""
    for name, part in columns(result)[own_column(result)].items():
        if is_robustness(part):
            shown, definitions = _columns_of(name, result), result["definitions"].get(name, {})
            metrics = [metric for metric in ("clean", "corrupted", "relative_drop") if metric in part]
            rows = _rows(metrics, shown, definitions, notes)
            means = Table(f"{name}: means over corruptions and severities", [name, *shown], rows)
            curves = {column: kinds for column, one in shown.items() if (kinds := _by_severity(one))}
            lead = _say_what_is_measured(definitions, result["protocol"])
            yield Section(name, name.capitalize(), [means, make_legend(list(curves)), _draw_severities(curves)], lead)


def _say_what_is_measured(definitions: Mapping[str, str], protocol: str) -> str:
    """Which metric the curves show, and why it need not be the one of the first table."""
    clean = definitions.get("clean", "").partition(",")[0]  # "map_at_r of retrieval, clean queries; ..."
    metric, _, evaluator = clean.partition(" of ")
    said = metric_label(f"{evaluator}.{metric}") if evaluator else "The metric"
    lead = f"{said} when the queries are corrupted; severity 0 is the clean image."
    if protocol.startswith("leave-one-out"):
        lead += " Half of each class asks and the other half is searched, so that no query meets its own clean image."
    return lead


def _by_severity(part: Mapping[str, Any]) -> dict[str, list[tuple[Number, Number]]]:
    """By corruption, the metric at each severity."""
    curves: dict[str, list[tuple[Number, Number]]] = {}
    for metric, value in part.items():
        match = _SEVERITY.match(metric)
        if match and value is not None:
            curves.setdefault(match[1], []).append((float(match[2]), float(value)))
    start = [] if part.get("clean") is None else [(0.0, float(part["clean"]))]
    return {kind: sorted([*start, *curve]) for kind, curve in curves.items()}


def _draw_severities(curves: Mapping[str, Mapping[str, list[tuple[Number, Number]]]]) -> Charts:
    """A chart for each corruption, all on one scale."""
    every = [y for kinds in curves.values() for curve in kinds.values() for _, y in curve]
    charts = []
    for kind in next(iter(curves.values()), {}):
        series = [
            Series(column, [x for x, _ in kinds[kind]], [y for _, y in kinds[kind]], at)
            for at, (column, kinds) in enumerate(curves.items())
            if kind in kinds
        ]
        charts.append(draw_lines(label(kind), series, x_name="severity", within=every))
    return Charts(charts)


def health_sections(result: Mapping[str, Any]) -> Iterator[Section]:
    """For each evaluator of health: its figures, each with what it means."""
    for name, part in columns(result)[own_column(result)].items():
        if is_health(part):
            shown, definitions = _columns_of(name, result), result["definitions"].get(name, {})
            rows = _rows(list(part), shown, definitions, None)
            meanings = [(label(metric), definitions.get(metric, "")) for metric in part]
            lead = (
                "Lower alignment and uniformity are better. An effective rank near 1 is a collapse. The farther "
                "hubness is above 0, the more some images are found for nearly every query."
            )
            figures = Table(f"{name} of the embeddings", [name, *shown], rows)
            yield Section(name, name.capitalize(), [figures, Facts(meanings, style="meanings")], lead)


def costs_section(result: Mapping[str, Any]) -> Section:
    """What the run cost."""
    rows = [
        ("steps", f"{result['steps']:,}"),
        ("images seen", format_compact(result["images_seen"])),
        *((label(name), format_cost(name, value).text) for name, value in result["cost"].items() if value is not None),
        *(
            (label(name.rpartition(".")[2]), f"not measured: {shorten(reason, 400)}")
            for name, reason in result.get("missing", {}).items()
        ),
    ]
    return Section("costs", "Costs", [Facts(rows)])


def recipe_section(path: Path) -> Section:
    """The complete recipe, as it stands in the folder."""
    text = RunFolder(path).recipe_file.read_text("utf-8")
    lead = "Complete, with every default filled in. It runs as it stands."
    return Section("recipe", "Recipe", [Code("recipe.toml", text)], lead)


def manifest_section(path: Path) -> Section:
    """Versions, hardware and data."""
    manifest = RunFolder(path).manifest()
    versions = manifest.get("versions", {})
    facts = {
        "accelerator": manifest.get("accelerator") or "none",
        **{name: manifest.get(name) for name in ("processor", "cpus", "threads", "ranks", "platform")},
        "Python": manifest.get("python"),
        **{name: versions.get(name) for name in ("torch", "timm", "numpy")},
        "plugins": ", ".join(f"{name} {of}" for name, of in manifest.get("plugins", {}).items() if name != BUILTIN),
        "test data": manifest.get("data", {}).get("test", "")[:16],
    }
    rows = [(name, shorten(str(value), 400)) for name, value in facts.items() if value not in (None, "")]
    blocks = [Facts(rows), Code("manifest.json", to_json(manifest), folded=True)]
    return Section("manifest", "Manifest", blocks, "What the last digits of the numbers may depend on.")
