"""The files of a new plugin package, from the templates in this folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from metriclab import __version__
from metriclab.errors import RecipeError, StorageError
from metriclab.registry import KINDS, entries
from metriclab.registry.api_version import API_VERSION

CREATED = ("loss", "method", "dataset", "evaluator")
"""The kinds that there are templates for. For the others `docs/plugins.md` has the signatures."""

FILES = {
    "pyproject.toml": "common/pyproject.toml",
    "README.md": "common/README.md",
    "LICENSE": "common/LICENSE",
    ".gitignore": "common/gitignore",
    ".github/workflows/test.yml": "common/test.yml",
    "recipe.toml": "$kind/recipe.toml",
    "src/$module/__init__.py": "$kind/component.py",
    "src/$module/py.typed": "common/py.typed",
    "tests/test_$snake.py": "$kind/test.py",
}
"""Path in the package -> template, both with names to fill in."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PREFIX = "metriclab-"
_LONGEST = 32


@dataclass(frozen=True, slots=True)
class NewPlugin:
    """What a new package is called.

    Attributes:
        name: of the component, as recipes write it.
        kind: one of `CREATED`.
    """

    name: str
    kind: str

    @property
    def package(self) -> str:
        return _PREFIX + self.name

    def words(self) -> dict[str, str]:
        """What the templates fill in."""
        snake, title = self.name.replace("-", "_"), self.name.replace("-", " ").capitalize()
        end = "" if snake.split("_")[-1] == self.kind else f"_{self.kind}"
        attribute = f"{snake}{end}"  # never a word that Python keeps for itself
        if self.kind != "loss":
            attribute = "".join(part.capitalize() for part in attribute.split("_"))
        return {
            "name": self.name,
            "kind": self.kind,
            "package": self.package,
            "module": self.package.replace("-", "_"),
            "snake": snake,
            "title": title,
            "attribute": attribute,
            "table": KINDS[self.kind].header,
            "api": str(API_VERSION),
            "metriclab": ".".join(__version__.split(".")[:2]),
        }


def plan(name: str, kind: str) -> NewPlugin:
    """The package for a component of that name.

    Args:
        name: of the component, with or without "metriclab-" before it.
        kind: one of `CREATED`.

    Raises:
        RecipeError: for a name that cannot be one, or that a component has already.
    """
    own = name.removeprefix(_PREFIX)
    if not _NAME.fullmatch(own) or len(own) > _LONGEST:
        help = f"use a-z, 0-9 and single - between them, a letter first, at most {_LONGEST} characters: my-{kind}"
        raise RecipeError(f"{name!r} cannot name a component", help=help)
    for entry in entries(kind):
        if entry.name == own:
            raise RecipeError(f"{entry} is there already, from {entry.source}", help="choose another name")
    return NewPlugin(own, kind)


def write(plugin: NewPlugin, folder: Path) -> list[Path]:
    """Writes the package into a folder that it makes, and returns the files.

    Raises:
        StorageError: where the folder, or anything else of that name, exists, or it cannot be written.
    """
    words = plugin.words()
    contents = {_filled(path, words): _template(_filled(source, words), words) for path, source in FILES.items()}
    try:
        folder.mkdir(parents=True)
        for path, content in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content, encoding="utf-8")
    except FileExistsError:
        raise StorageError(f"{folder} exists already", help="choose another folder with --folder") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise StorageError(f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    return [folder / path for path in contents]


def _template(name: str, words: dict[str, str]) -> str:
    template = files("metriclab.cli.new_plugin").joinpath("templates", f"{name}.template")
    return _filled(template.read_text(encoding="utf-8"), words)


def _filled(text: str, words: dict[str, str]) -> str:
    return Template(text).substitute(words)
