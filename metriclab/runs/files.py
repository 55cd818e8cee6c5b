"""JSON and bytes of a run folder: written whole or not at all, and read as what anyone may have changed since."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from metriclab.core.files import read_regular, replacing
from metriclab.errors import StorageError
from metriclab.recipe.document import too_deep

LIMIT = 2**28
"""Bytes of a JSON file: a larger one is not what a run wrote."""

_DEPTH = 64
_FOLDERS = re.compile(r"""(?<=['"])~?/[^'"\n]*/|(?<![\w./:~'"-])~?/(?:[^\s/'",;)\]]+/)+""")
"""Those of absolute paths in a text: in quotes with spaces, else up to the first space; not those of an address."""

_PUT_BACK = "put back what the run wrote, or run it again in another folder"


def write_atomic(path: Path, content: bytes) -> None:
    """Puts the content at the path, whole or not at all. Raises as `replacing` does."""
    with replacing(path, elsewhere="choose another --out") as file:
        file.write(content)


def to_json(value: Any, *, no_text: Literal["backslashreplace", "replace"] = "backslashreplace") -> str:
    """Readable JSON, always the same text for the same value. NaN and infinity become null: JSON has neither.

    Args:
        value: of plain values.
        no_text: what becomes of bytes in names of files that are no UTF-8: an escape, from which they come back, or a
            question mark.
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors=no_text).decode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {_finite(str(key)): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """`to_json`, atomically; all of it is text."""
    write_atomic(path, to_json(value, no_text="replace").encode())


def without_folders(value: Any) -> Any:
    """The value, where texts have of each absolute path its last part alone: folders are this machine's.

    What a run hands on has none of them, whoever wrote the text: an error, a parameter, a definition.
    """
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {key: without_folders(part) for key, part in value.items()}
    return [without_folders(part) for part in value] if isinstance(value, list | tuple) else value


def read_json(path: Path, shape: type[BaseModel]) -> Any:
    """The value stored at the path, as it stands there.

    Args:
        path: of the file.
        shape: what its value has to be like.

    Raises:
        StorageError: where there is no such file, or it holds no JSON, or another value than a run writes there.
    """
    try:
        content = read_regular(path, most=LIMIT)
    except FileNotFoundError as error:
        raise StorageError(f"{path} is not there", help="is this a finished metriclab run folder?") from error
    return parse_json(content, shape, str(path))


def parse_json(content: bytes, shape: type[BaseModel], place: str) -> Any:
    """The value of a JSON text that anyone may have written.

    Args:
        content: the text.
        shape: what its value has to be like.
        place: what to call it in messages.

    Raises:
        StorageError: where it is no JSON of UTF-8, has a key twice or a number that is not finite, is nested more than
            64 deep, or does not have the shape.
    """
    try:
        value = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_float=_number)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (UnicodeError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise StorageError(f"{place} cannot be read: {reason}", help=_PUT_BACK) from error
    if too_deep(value, _DEPTH):
        raise StorageError(f"{place} cannot be read: it is nested too deep", help=_PUT_BACK)
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = f"{where}: {first['msg']}" if where else "it is no table of names and values"
        raise StorageError(f"{place} does not hold what a run writes there: {said}", help=_PUT_BACK) from error
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return table


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _number(text: str) -> float:
    number = float(text)
    return _no_number(text) if abs(number) == float("inf") else number


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a plain value's canonical JSON."""
    return digest(
        json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
            errors="backslashreplace"
        )
    )
