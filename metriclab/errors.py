"""The errors a user may meet, each with an exit code and, where there is one, the repair.

Anything that is not one of these is a bug of metriclab's own and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class MetriclabError(Exception):
    """Base of the expected errors: shown without a traceback.

    Args:
        message: what is wrong, naming the place.
        help: how to repair it, one sentence without a full stop; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self.message, self.help)

    def __str__(self) -> str:
        return self.message if self.help is None else f"{self.message}\n  help: {self.help}"


def _remake(kind: type[MetriclabError], message: str, help: str | None) -> MetriclabError:
    # Errors travel between ranks by pickle, which would lose the keyword-only help.
    return kind(message, help=help)


class RecipeError(MetriclabError):
    """The recipe or the command line asks for something that cannot be."""

    exit_code = 2


class PluginError(MetriclabError):
    """An installed component is broken, refused or in conflict; the message names its package and version."""

    exit_code = 3


class DataError(MetriclabError):
    """The data cannot be used as they are; the message names the file or folder.

    Args:
        message: what is wrong, naming the place.
        help: how to repair it.
        files: where files of the data set give no image, each of them with the reason; the message may show only some.
    """

    exit_code = 3

    def __init__(self, message: str, *, help: str | None = None, files: Mapping[str, str] | None = None) -> None:
        super().__init__(message, help=help)
        self.files = dict(files or {})


class DivergedError(MetriclabError):
    """The loss or a gradient stopped being finite."""

    exit_code = 4


class StorageError(MetriclabError):
    """A run folder, checkpoint or cache cannot be read or written."""

    exit_code = 5


@contextmanager
def needing(extra: str, package: str, component: str) -> Iterator[None]:
    """Around the import of a package that comes with an extra of this distribution, for one component alone.

    Raises:
        PluginError: where it is not installed, naming the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        help = f'pip install "metriclab-toolkit[{extra}]"'
        raise PluginError(f"{component} needs {package}, which is not installed", help=help) from error
