"""What a check of data found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["unreadable", "refused", "listing", "copies", "look-alikes", "classes", "groups", "singletons"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth a look.

    Attributes:
        kind: what it is.
        wrong: whether results on these data would mislead; otherwise it is a warning.
        message: one sentence.
        items: all it is about: {file, reason}, {image, other, difference} or {class}.
    """

    kind: Kind
    wrong: bool
    message: str
    items: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What is in a split.

    Attributes:
        images: number of images that can be read.
        unlabelled: those without a class.
        classes: number of images of each class, by name, the largest first.
        height, width: smallest, median and largest, in pixels, as the data set hands images out.
        grey: images whose channels are all equal.
        flat: images with next to no contrast, such as blank ones.
    """

    images: int
    unlabelled: int
    classes: dict[str, int]
    height: tuple[float, float, float] | None
    width: tuple[float, float, float] | None
    grey: int
    flat: int


@dataclass(frozen=True, slots=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        data: registered name of the data set.
        splits: by name; without those that could not be loaded.
        findings: what is wrong comes first.
        notes: what was not looked at.
    """

    data: str
    splits: dict[str, SplitSummary]
    findings: list[Finding]
    notes: list[str]

    @property
    def fine(self) -> bool:
        return not any(finding.wrong for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"fine": self.fine, **asdict(self)}


def count_of(number: int, noun: str) -> str:
    """A number of things in words."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"
