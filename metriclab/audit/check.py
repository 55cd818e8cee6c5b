"""What can be wrong with the data of a recipe: looked for before a result depends on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int64

from metriclab.audit.duplicates import FLAT, REACH, find_copies, find_look_alikes
from metriclab.audit.findings import pairs, shared_classes, shared_groups, singletons
from metriclab.audit.reading import Items, open_splits, read_items
from metriclab.audit.report import DataReport, Finding, SplitSummary, count_of
from metriclab.core.protocols import Dataset
from metriclab.core.splits import has_features
from metriclab.recipe import Recipe

__all__ = ["DataReport", "Finding", "SplitSummary", "check_data"]


def check_data(recipe: Recipe) -> DataReport:
    """Reads every image of a recipe's data set, and looks for what would make results mislead.

    Wrong are files that give no image, a split that cannot be loaded, and what reaches over splits: copies;
    look-alikes, unless each such pair has two classes, as different things may look alike; some classes, but not all;
    images of one class and group.
    Warnings are copies and look-alikes within a split, classes of one image where it has no other to find, or of one
    group, and what the data set has to say of how it found its files, such as those it left out.

    Raises:
        DataError: where the data cannot be used for a reason other than files that give no image.
    """
    chosen = recipe.components["dataset"]
    splits, unreadable, refused = open_splits(chosen)
    if not splits:
        return DataReport(chosen.name, {}, _files(unreadable, refused), ["no image was looked at"])
    if any(map(has_features, splits.values())):
        findings = [*_files(unreadable, refused), *_listing(splits), *shared_classes(splits), *singletons(splits)]
        return DataReport(chosen.name, {}, findings, ["the data are features: nothing was looked at but their classes"])
    items = read_items(splits, unreadable)
    copies, first = find_copies(items.signatures, items.split, len(splits))
    alike, crowded = find_look_alikes(items.signatures, items.split, len(splits), first)
    findings = [
        *_files(unreadable, refused),
        *_listing(splits),
        *shared_classes(splits),
        *shared_groups(splits),
        *pairs("copies", items, list(splits), copies),
        *pairs("look-alikes", items, list(splits), alike),
        *singletons(splits),
    ]
    return DataReport(
        data=chosen.name,
        splits={name: _summary(data, items, number) for number, (name, data) in enumerate(splits.items())},
        findings=sorted(findings, key=lambda finding: not finding.wrong),
        notes=_notes(items, crowded),
    )


def _files(unreadable: Mapping[str, str], refused: Mapping[str, str]) -> list[Finding]:
    findings = [Finding("refused", True, f"{name} cannot be loaded: {reason}", []) for name, reason in refused.items()]
    if unreadable:
        items = [{"file": file, "reason": reason} for file, reason in unreadable.items()]
        message = f"{count_of(len(items), 'file')} {'gives' if len(items) == 1 else 'give'} no image"
        findings.insert(0, Finding("unreadable", True, message, items))
    return findings


def _listing(splits: Mapping[str, Dataset]) -> list[Finding]:
    # Only data sets of files have any.
    notes = dict.fromkeys(note for data in splits.values() for note in getattr(data, "notes", ()))
    return [Finding("listing", False, note, []) for note in notes]


def _summary(data: Dataset, items: Items, number: int) -> SplitSummary:
    mine = items.split == number
    counts = Counter(items.labels[mine & (items.labels >= 0)].tolist())
    sizes = items.signatures.sizes[mine]
    return SplitSummary(
        images=int(mine.sum()),
        unlabelled=int((items.labels[mine] < 0).sum()),
        classes={data.classes[label]: count for label, count in counts.most_common()},
        height=_span(sizes[:, 0]),
        width=_span(sizes[:, 1]),
        grey=int(items.signatures.grey[mine].sum()),
        flat=int((items.signatures.contrast[mine] < FLAT).sum()),
    )


def _span(values: Int64[np.ndarray, "n"]) -> tuple[float, float, float] | None:
    return (float(values.min()), float(np.median(values)), float(values.max())) if len(values) else None


def _notes(items: Items, crowded: Bool[np.ndarray, "n"]) -> list[str]:
    flat = int((items.signatures.contrast < FLAT).sum())
    notes = (
        [f"{count_of(flat, 'image')} with next to no contrast: only exact copies of these are found"] if flat else []
    )
    if crowded.any():
        number = count_of(int(crowded.sum()), "image")
        notes.append(f"{number} with so many like them that only the {REACH} nearest by hash were compared")
    return notes
