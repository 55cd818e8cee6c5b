"""Which loss is meant: a class or function of a module or a file, its settings, and how it is called."""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metriclab.errors import RecipeError
from metriclab.registry import suggest
from metriclab.testing.any_loss.conventions import Calls

CLASSES = 6
"""Classes of the rows that losses are tried on."""

DIMS = 16
_DIMS = ("embedding_dim", "embedding_size", "descriptors_dim", "in_features", "dim", "feat_dim", "output_dim")
_CLASSES = ("num_classes", "n_classes", "out_features", "classes")


@dataclass(frozen=True, slots=True)
class Target:
    """A loss that somebody names. Naming it here imports its module, which runs its code: never do so for a recipe.

    Attributes:
        place: "package.module:Name", or "file.py:Name".
        settings: arguments by name. Required numbers of classes and of dimensions that are left out are filled in.
        calls: how it is called; None to go by its parameters.
    """

    place: str
    settings: Mapping[str, Any]
    calls: Calls | None = None

    def build(self) -> Any:
        """A new loss, with the same random weights each time.

        Raises:
            RecipeError: where there is none of that name, or it cannot be built from the settings.
        """
        made = _find(self.place)
        if not (inspect.isclass(made) or inspect.isroutine(made)):  # an object that can be called
            if self.settings:
                help = "leave out --set, or name its class"
                raise RecipeError(f"{self.place} is a loss that is built already, and takes no settings", help=help)
            return copy.deepcopy(made)
        arguments = _signature(self.place, made)
        is_the_loss = inspect.isfunction(made) and _is_the_loss(arguments)
        try:
            if is_the_loss:
                arguments.bind_partial(**self.settings)
                return functools.partial(made, **self.settings) if self.settings else made
            given, named = self._arguments(arguments)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return made(*given, **named)
        except Exception as error:
            raise RecipeError(
                f"{self.place} cannot be {'called' if is_the_loss else 'built'}: {type(error).__name__}: {error}",
                help=f"its arguments are given by --set name=value; they are {arguments}",
            ) from error

    @property
    def filled(self) -> dict[str, Any]:
        """What is filled in of what the constructor requires."""
        made = _find(self.place)
        if not inspect.isclass(made):
            return {}
        arguments = _signature(self.place, made).parameters.values()
        required = [p for p in arguments if p.default is p.empty]
        wanted = [p for p in required if p.name not in self.settings]
        given: dict[str, Any] = {p.name: self.dims for p in wanted if p.name in _DIMS}
        for parameter in wanted:
            if parameter.name in _CLASSES:
                table = "Tensor" in str(parameter.annotation)
                given[parameter.name] = torch.arange(CLASSES) if table else CLASSES
        return given

    @property
    def dims(self) -> int:
        """Dimensions of the embeddings: those of the settings, where they say so."""
        said = [self.settings[name] for name in _DIMS if isinstance(self.settings.get(name), int)]
        return int(said[0]) if said else DIMS

    @property
    def by_class(self) -> bool:
        """Whether it learns something for each class, so that labels must be numbers of classes."""
        return any(name in _CLASSES for name in (*self.settings, *self.filled))

    @property
    def package(self) -> str:
        """Its package and version, or its file."""
        module = self.place.partition(":")[0]
        if module.endswith(".py"):
            return Path(module).name
        top = module.partition(".")[0]
        names = packages_distributions().get(top, [])
        return f"{names[0]} {version(names[0])}" if names else top

    def _arguments(self, arguments: inspect.Signature) -> tuple[list[Any], dict[str, Any]]:
        named = {**self.filled, **self.settings}
        first = [p.name for p in arguments.parameters.values() if p.kind is p.POSITIONAL_ONLY]
        return [named.pop(name) for name in first if name in named], named


def _signature(place: str, made: Any) -> inspect.Signature:
    try:
        return inspect.signature(made)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{place} does not tell its arguments, so it is no loss", help="name a loss") from error


def _is_the_loss(arguments: inspect.Signature) -> bool:
    """Whether a function of these is a loss, and not what makes one."""
    parameters = arguments.parameters.values()
    return sum(p.default is p.empty and p.kind is not p.KEYWORD_ONLY for p in parameters) >= 2


def _find(place: str) -> Any:
    module, colon, name = place.rpartition(":")
    if not (colon and module and name):
        help = 'name it as "pytorch_metric_learning.losses:CircleLoss", or "my_loss.py:MyLoss"'
        raise RecipeError(f"'{place}' names no loss", help=help)
    found = _file(Path(module)) if module.endswith(".py") else _module(module)
    made = found
    for part in name.split("."):
        if not hasattr(made, part):
            classes = {key: value for key, value in vars(found).items() if inspect.isclass(value)}
            losses = [key for key, value in classes.items() if issubclass(value, nn.Module)]
            raise RecipeError(f"{module} has no '{name}'", help=suggest(name, losses) or f"it has {', '.join(losses)}")
        made = getattr(made, part)
    if not callable(made):
        raise RecipeError(f"{place} is a {type(made).__name__}, and no class or function", help="name the loss itself")
    return made


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        help = "install it, or name a file: my_loss.py:MyLoss"
        raise RecipeError(f"there is no module '{error.name}'", help=help) from error
    except Exception as error:
        raise RecipeError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _file(path: Path) -> Any:
    if not path.is_file():
        raise RecipeError(f"there is no file {path}", help="the name of a loss is FILE.py:NAME")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"checked_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # as Python does for a script, whose neighbours it may import
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RecipeError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
