"""Weights of other projects: finds the one network of a file that an encoder is, and loads it whole or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metriclab.encoders.weights_file import read_weights
from metriclab.errors import DataError
from metriclab.registry.toml import toml_value

_OWN = ("method.network.encoder.", "network.encoder.")  # as in a checkpoint of a run, whatever copies stand beside it
_HEADS = ("head", "fc", "classifier", "linear", "projector", "projection_head", "predictor", "prediction_head")


class _Fit(NamedTuple):
    """One place of a file where the names of a network are.

    Attributes:
        module: the network.
        prefix: what stands before the names, "" or with a dot at its end.
        names: by the module's own name of a tensor, that in the file.
        missing: tensors of the module that are not there.
        others: tensors that are there, but not in the module; by the part they belong to.
    """

    module: nn.Module
    prefix: str
    names: dict[str, str]
    missing: list[str]
    others: dict[str, list[str]]


def load_weights(
    path: Path, modules: Sequence[nn.Module], *, prefix: str | None = None, heads: Iterable[str] = ()
) -> str | None:
    """Loads the one network of a file whose every name and shape fits; otherwise changes nothing.

    A checkpoint may hold it anywhere: as `state_dict` or `model` beside an optimizer, below `module.`, `encoder_q.`,
    `backbone.`, `teacher.` or whatever else a project calls it, or as a Sequential of its parts, by their numbers.

    Args:
        path: see `read_weights`.
        modules: what to load into, the first of them that fits.
        prefix: of the names in the file, or a part of it ("encoder_q"), where several networks fit.
        heads: parts that may be in the file without a place in the module, besides those of the usual names.

    Returns:
        What was taken and what was left out, in words; None for all of the file's tensors by their own names.

    Raises:
        DataError: where the file cannot be read, none fits, or several do.
    """
    state = read_weights(path)
    heads = {*heads, *_HEADS}
    for module in modules:
        places = list(_places(state, module))
        fits = [fit for fit in places if not fit.missing and not _unexpected(fit, heads)]
        if fits:
            chosen = _choose(path, state, fits, prefix)
            chosen.module.load_state_dict({name: state[file] for name, file in chosen.names.items()}, strict=False)
            return _taken(path, chosen)
    nearest = max((fit for fit in places if _is_meant(fit, prefix)), key=lambda fit: len(fit.names), default=None)
    nearest = nearest or _Fit(module, "", {}, _required(module), _by_part(state))
    unexpected = _unexpected(nearest, heads)
    below = f" below {nearest.prefix!r}" if nearest.prefix else ""
    raise DataError(
        f"{path}: these are not the weights of this model ({_count('missing', nearest.missing)}; "
        f"{_count('unexpected', unexpected)}{below})",
        help="set encoder.model to the model that the file was saved from",
    )


def _places(state: Mapping[str, Tensor], module: nn.Module) -> Iterator[_Fit]:
    """Everywhere in a file that has names of the module, by their words or by the numbers of its parts."""
    required = _required(module)
    places = [place for spelled in _spellings(module) for place in _found(state, spelled).items()]
    whole = [prefix for prefix, names in places if names.keys() >= set(required)]
    for prefix, names in places:
        taken = set(names.values())
        # What belongs to another network further in is not left over from this one.
        inner = tuple(other for other in whole if other != prefix and other.startswith(prefix))
        rest = [name for name in state if name.startswith(prefix) and name not in taken and not name.startswith(inner)]
        missing = [name for name in required if name not in names]
        yield _Fit(module, prefix, names, missing, _by_part(name.removeprefix(prefix) for name in rest))


def _spellings(module: nn.Module) -> Iterator[dict[str, str]]:
    """The module's own name of each tensor by what a file may call it."""
    own = list(module.state_dict())
    yield {name: name for name in own}
    number = {name: place for place, (name, _) in enumerate(module.named_children())}
    parts = (name.partition(".") for name in own)
    yield {f"{number[first]}.{rest}": f"{first}.{rest}" for first, _, rest in parts if first in number}


def _found(state: Mapping[str, Tensor], spelled: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The name in the file by the module's own, for each prefix that some have."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for file_name in state:
        parts = file_name.split(".")
        for start in range(len(parts)):
            name = spelled.get(".".join(parts[start:]))
            if name is not None:
                found["".join(f"{part}." for part in parts[:start])][name] = file_name
    return found


def _required(module: nn.Module) -> list[str]:
    # Files older than PyTorch 0.4.1 lack this counter, which no forward pass reads.
    return [name for name in module.state_dict() if not name.endswith("num_batches_tracked")]


def _by_part(names: Iterable[str]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parts[name.partition(".")[0]].append(name)
    return dict(parts)


def _unexpected(fit: _Fit, heads: Iterable[str]) -> list[str]:
    return [name for part, names in fit.others.items() if part not in heads for name in names]


def _choose(path: Path, state: Mapping[str, Tensor], fits: Sequence[_Fit], prefix: str | None) -> _Fit:
    """The one network that is meant."""
    meant = [fit for fit in fits if fit.prefix == prefix] or [fit for fit in fits if _is_meant(fit, prefix)]
    if not meant:
        raise DataError(
            f"{path}: encoder.weights_prefix = {toml_value(prefix)} is not where this encoder's weights are",
            help=f"they are below {_listed(fits)}; name one of these, or leave it out",
        )
    shaped = [fit for fit in meant if _wrong_shape(state, fit) is None]
    if not shaped:
        name = str(_wrong_shape(state, meant[0]))
        file_name, needed = meant[0].names[name], meant[0].module.state_dict()[name]
        raise DataError(
            f"{path}: '{file_name}' has shape {tuple(state[file_name].shape)}, this model needs {tuple(needed.shape)}",
            help="set encoder.model, in_chans, image_size and cifar_stem as they were when the file was saved",
        )
    first, *others = [fit for fit in shaped if fit.prefix in _OWN] or shaped
    # Some projects save one network under two names.
    if all(torch.equal(state[first.names[name]], state[fit.names[name]]) for fit in others for name in first.names):
        return first
    ways = " or ".join(toml_value(_distinct_part(fit, shaped)) for fit in shaped)
    raise DataError(
        f"{path}: {len(shaped)} networks of this file fit the encoder, those below {_listed(shaped)}",
        help=f"choose one: encoder.weights_prefix = {ways}",
    )


def _wrong_shape(state: Mapping[str, Tensor], fit: _Fit) -> str | None:
    needed = fit.module.state_dict()
    return next((own for own, name in fit.names.items() if state[name].shape != needed[own].shape), None)


def _is_meant(fit: _Fit, prefix: str | None) -> bool:
    """Whether the parts of the prefix stand in this one, one after the other."""
    return prefix is None or f".{prefix.strip('.')}." in f".{fit.prefix}"


def _distinct_part(fit: _Fit, fits: Sequence[_Fit]) -> str:
    """A part of the prefix that no other has, or all of it."""
    others = {part for other in fits if other is not fit for part in other.prefix.split(".")}
    return next((part for part in fit.prefix.split(".") if part not in others), fit.prefix)


def _listed(fits: Sequence[_Fit]) -> str:
    return ", ".join(f"'{fit.prefix}'" for fit in fits)


def _taken(path: Path, fit: _Fit) -> str | None:
    below = f" below '{fit.prefix}'" if fit.prefix and fit.prefix not in _OWN else ""
    left_out = f", without its {', '.join(fit.others)}" if fit.others else ""
    taken = f"encoder.weights: took the {len(fit.names)} tensors of {path}"
    return taken + below + left_out if below or left_out else None


def _count(kind: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {kind}: {shown}" if names else f"0 {kind}"
