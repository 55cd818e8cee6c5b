"""What the labels and the likeness of images say about a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from metriclab.audit.duplicates import Partners
from metriclab.audit.reading import Items
from metriclab.audit.report import Finding, Kind, count_of
from metriclab.core.protocols import Dataset


def shared_classes(splits: Mapping[str, Dataset]) -> list[Finding]:
    """Classes on both sides of splits that share some of their classes, but not all."""
    known = {name: np.unique(data.labels[data.labels >= 0]) for name, data in splits.items()}
    trained = known.get("train", np.array([], dtype=np.int64))
    findings = []
    for name in [name for name in known if name != "train"]:
        shared = np.intersect1d(known[name], trained)
        if 0 < len(shared) < len(known[name]):
            verb, total = "is" if len(shared) == 1 else "are", count_of(len(known[name]), "class")
            message = f"{len(shared):,} of {total} of {name} {verb} in train as well, the others are not"
            findings.append(_of_classes("classes", True, message, splits[name], shared))
    if {"train", "val", "test"} <= known.keys():
        both = np.setdiff1d(np.intersect1d(known["val"], known["test"]), trained)
        if len(both):
            verb = "is" if len(both) == 1 else "are"
            message = f"{count_of(len(both), 'class')} kept from train {verb} in val and in test"
            findings.append(_of_classes("classes", True, message, splits["test"], both))
    return findings


def singletons(splits: Mapping[str, Dataset]) -> list[Finding]:
    """Classes of one image, for which there is no image to find, in the split or in train."""
    findings = []
    for name, data in splits.items():
        labels, counts = np.unique(data.labels[data.labels >= 0], return_counts=True)
        lone = labels[counts == 1]
        if name != "train" and "train" in splits:
            lone = np.setdiff1d(lone, splits["train"].labels)
        if len(lone):
            verb = "has" if len(lone) == 1 else "have"
            message = f"{count_of(len(lone), 'class')} of {name} {verb} a single image, which has no other to find"
            findings.append(_of_classes("singletons", False, message, data, lone))
    return findings


def shared_groups(splits: Mapping[str, Dataset]) -> list[Finding]:
    """What makes a match too easy: images whose own class and group is in train, and classes of a single group."""
    findings, trained = [], _classes_and_groups(splits["train"]) if "train" in splits else None
    for name, data in splits.items():
        mine = _classes_and_groups(data)
        if mine is None or name == "train":
            continue
        if trained is not None:
            leaks = np.flatnonzero((mine >= 0).all(1) & np.isin(_joined(mine), _joined(trained)))
            if len(leaks):
                verb = "has" if len(leaks) == 1 else "have"
                message = (
                    f"{count_of(len(leaks), 'image')} of {name} {verb} images of their own class and group in train"
                )
                findings.append(
                    Finding("groups", True, message, [{"image": data.names[item]} for item in leaks.tolist()])
                )
        known = np.unique(mine[(mine >= 0).all(1)], axis=0)
        labels, counts = np.unique(known[:, 0], return_counts=True)
        lone = labels[counts == 1]
        if len(lone):
            verb = "is" if len(lone) == 1 else "are"
            message = (
                f"{count_of(len(lone), 'class')} of {name} {verb} of a single group, outside of which there is no match"
            )
            findings.append(_of_classes("groups", False, message, data, lone))
    return findings


def _classes_and_groups(data: Dataset) -> Int64[np.ndarray, "n 2"] | None:
    groups: np.ndarray | None = getattr(data, "groups", None)
    return None if groups is None else np.stack([data.labels, groups], axis=1)


def _joined(pairs: Int64[np.ndarray, "n 2"]) -> Int64[np.ndarray, "n"]:
    """One number for each class and group."""
    joined: np.ndarray = (pairs[:, 0] << 32) + pairs[:, 1]
    return joined


def _of_classes(kind: Kind, wrong: bool, message: str, data: Dataset, labels: Int64[np.ndarray, "c"]) -> Finding:
    return Finding(kind, wrong, message, [{"class": data.classes[label]} for label in labels])


def pairs(kind: Kind, items: Items, splits: list[str], partners: Partners) -> list[Finding]:
    """A finding for each two splits with such pairs, told from the side of the later one."""
    findings = []
    for number, name in enumerate(splits):
        for other_number, other_name in enumerate(splits[: number + 1]):
            others = partners.items[:, other_number]
            mine = np.flatnonzero((items.split == number) & (others >= 0))
            if len(mine) == 0:
                continue
            labels, other_labels = items.labels[mine], items.labels[others[mine]]
            unlike = int(((labels != other_labels) & (labels >= 0) & (other_labels >= 0)).sum())
            across = number != other_number
            findings.append(
                Finding(
                    kind,
                    across and (kind == "copies" or unlike < len(mine)),
                    _sentence(kind, len(mine), unlike, name, other_name),
                    _pairs_of(items, mine, partners, other_number),
                )
            )
    return findings


def _sentence(kind: Kind, count: int, unlike: int, name: str, other_name: str) -> str:
    what = "a copy" if kind == "copies" else "a look-alike"
    classes = f", {unlike:,} of them under another class" if unlike else ""
    return f"{count_of(count, 'image')} of {name} {'has' if count == 1 else 'have'} {what} in {other_name}{classes}"


def _pairs_of(items: Items, mine: Int64[np.ndarray, "m"], partners: Partners, split: int) -> list[dict[str, Any]]:
    """Each pair once, the most alike first."""
    others, differences = partners.items[mine, split], partners.differences[mine, split]
    pairs = {
        (min(item, other), max(item, other)) if items.split[item] == split else (item, other): difference
        for item, other, difference in zip(mine.tolist(), others.tolist(), differences.tolist(), strict=True)
    }
    return [
        {"image": items.names[item], "other": items.names[other], "difference": round(difference, 4)}
        for (item, other), difference in sorted(pairs.items(), key=lambda pair: pair[1])
    ]
