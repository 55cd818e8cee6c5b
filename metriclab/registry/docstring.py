"""What `metriclab show` takes from a component's docstring."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

_ARGUMENT = re.compile(r"(?P<names>\w+(?:, \w+)*)(?: \([^)]*\))?: *(?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Docstring:
    """The parts that are shown.

    Attributes:
        summary: the first paragraph, on one line.
        paper: the paragraph that begins with `Paper:`, without that word.
        arguments: the text of each parameter in the Google-style section `Args:`.
    """

    summary: str = ""
    paper: str = ""
    arguments: dict[str, str] = field(default_factory=dict)


def parse_docstring(text: str | None) -> Docstring:
    """The parts of a docstring; parts that are not there are empty."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    papers = [paragraph for paragraph in paragraphs if paragraph.startswith("Paper:")]
    paper = _one_line(papers[0]).removeprefix("Paper:").strip() if papers else ""
    arguments = [paragraph for paragraph in paragraphs if paragraph.startswith("Args:\n")]
    return Docstring(_one_line(paragraphs[0]), paper, _arguments(arguments[0]) if arguments else {})


def _arguments(paragraph: str) -> dict[str, str]:
    lines = paragraph.splitlines()[1:]
    indent = len(lines[0]) - len(lines[0].lstrip())
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        opening = _ARGUMENT.fullmatch(line[indent:]) if not line[:indent].strip() else None
        if opening:
            names = opening["names"].split(", ")
            found |= dict.fromkeys(names, opening["text"])
        else:  # a longer text goes on, indented further
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _one_line(paragraph: str) -> str:
    return " ".join(paragraph.split())
